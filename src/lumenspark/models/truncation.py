"""Truncation of texts that outgrow the context length.

A mask (B, S) has 1 at tokens that the model sees, 0 at padding and at dropped tokens.
"""

import torch
from torch import Tensor
from transformers import Cache


def keep_newest_half(mask: Tensor, context: int) -> Tensor:
    """The mask (B, S), with rows of more than ``context`` tokens cut to their newest half context.

    Returns ``mask`` itself if no row is too long.
    """
    if mask.shape[1] <= context:
        return mask
    too_long = mask.sum(dim=1, keepdim=True) > context
    if not too_long.any():
        return mask
    tokens_from_here = mask.flip(1).cumsum(1).flip(1)
    return mask * (~too_long | (tokens_from_here <= context // 2))


def positions_from_mask(mask: Tensor) -> Tensor:
    """Each token's position in its row's text, (B, S); 0 at left padding."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def first_column(mask: Tensor) -> int:
    """The first column of (B, S) in which any row has a token (the last column if none has)."""
    columns = mask.any(dim=0).nonzero()
    return int(columns[0]) if len(columns) else mask.shape[1] - 1


def empty_cache(cache: Cache) -> None:
    """Drop all keys and values, in dynamic and in static caches."""
    cache.reset()
    if cache.get_seq_length():
        cache.crop(0)


def remembered(mask: Tensor, new: int, context: int) -> Tensor:
    """The mask (B, S + new) of a text with ``mask`` (B, S) after ``new`` generated tokens.

    The tokens are added one at a time, and a row is cut whenever it is full.
    """
    mask = keep_newest_half(mask, context)
    grown = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)
    half = context // 2
    tokens = mask.sum(dim=1, keepdim=True) + new
    since_cut = (tokens - context - 1) % (context + 1 - half)
    seen = torch.where(tokens > context, half + since_cut, tokens)
    tokens_from_here = grown.flip(1).cumsum(1).flip(1)
    return grown * (tokens_from_here <= seen)


def check_length(tokens: int, context: int) -> None:
    """Raises ValueError if ``tokens`` is more than ``context`` positions."""
    if tokens > context:
        raise ValueError(
            f"{tokens} tokens are longer than the context of {context}: cut the text into windows, "
            "or use generate(), which goes on past it"
        )
