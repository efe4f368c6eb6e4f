"""What low-rank attention attends to, made visible: slot by slot and token by token. Takes O(T²).

The functions follow one another: how tokens are written to the slots (``write_weights``), how
queries read slots and near tokens (:func:`read_weights`), and what that means for each token
(:func:`token_weights`). Each takes what the one before has given, so one may change it between.
"""

import math

import torch
from torch import Tensor

from .lowrank import Project, without_autocast, write_weights
from .lowrank_attention_blocks import EMPTY, slot_means


@without_autocast
def lowrank_attention_map(
    query: Tensor,
    key: Tensor,
    project: Project | None,
    window: int,
    scaling: float,
    mask: Tensor | None = None,
) -> Tensor:
    """How much each query draws from each token, directly or through the slots: (B, H, T, T).

    A slot's weight is shared among the tokens that were written to it, as they were written. Rows
    sum to 1 (to 0 at pads), and the map times the values is the attention's output.
    """
    mask = all_present(query) if mask is None else mask
    write = write_weights(project, key, text_positions(mask))
    read, near, weight = read_weights(query, key, write, window, scaling, mask)
    return token_weights(read, near, weight, write, window, mask).to(query.dtype)


@without_autocast
def read_weights(
    query: Tensor, key: Tensor, write: Tensor, window: int, scaling: float, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Each query's one softmax: over the slots (B, H, T, K), and over the near tokens (B, H, T, T).

    ``query`` and ``key`` (B, H, T, D), ``write`` (B, H, T, K), ``mask`` (B, T) boolean, False at
    pads. The third result (B, H, T, K) is what had been written to each slot when the query read
    it, 1 where that was nothing. float32.
    """
    batch, heads, length, _ = query.shape
    positions = text_positions(mask)
    blocks = positions // window
    write = write.float() * mask[:, None, :, None]
    slot_scores = query.new_full((*write.shape[:2], length, write.shape[-1]), -math.inf).float()
    weights = torch.ones_like(slot_scores)
    sums = key.new_zeros(batch, heads, write.shape[-1], key.shape[-1], dtype=torch.float32)
    weight = torch.zeros_like(sums[..., 0])
    for block in range(2, int(blocks.max()) + 1):
        leaving = write * (blocks == block - 2)[:, None, :, None]
        sums = sums + leaving.transpose(-1, -2) @ key.float()
        weight = weight + leaving.sum(2)
        means, log_weight = slot_means(sums, weight)
        scores = ((query * scaling) @ means.to(key.dtype).transpose(-1, -2)).float()
        here = (blocks == block)[:, None, :, None]
        slot_scores = torch.where(here, scores + log_weight[:, :, None], slot_scores)
        weights = torch.where(here & (weight >= EMPTY)[:, :, None], weight[:, :, None], weights)

    apart = blocks[:, :, None] - blocks[:, None, :]  # (B, T, T): blocks between query and token
    direct = (apart <= 1) & (positions[:, :, None] >= positions[:, None, :]) & mask[:, None, :]
    scores = ((query * scaling) @ key.transpose(-1, -2)).float()
    scores = scores.masked_fill(~(direct & mask[:, :, None])[:, None], -math.inf)
    # A pad sees nothing: a row of -inf would give NaN, so it gets any number, and zeros below.
    scores = scores.masked_fill(~mask[:, None, :, None], 0.0)
    both = torch.cat([slot_scores, scores], dim=-1).softmax(-1) * mask[:, None, :, None]
    read, near = both.split([write.shape[-1], length], dim=-1)
    return read, near, weights


@without_autocast
def token_weights(
    read: Tensor, near: Tensor, weight: Tensor, write: Tensor, window: int, mask: Tensor
) -> Tensor:
    """What :func:`read_weights` gave, token by token: (B, H, T, T).

    A slot's weight goes to the tokens that it held then, in the measure in which they were written.
    """
    blocks = text_positions(mask) // window
    held = (blocks[:, :, None] - blocks[:, None, :] > 1)[:, None]
    write = write.float() * mask[:, None, :, None]
    return near + (read / weight) @ write.transpose(-1, -2) * held


def all_present(query: Tensor) -> Tensor:
    """The mask (B, T) of rows without pads, for queries (B, H, T, D)."""
    return torch.ones(query.shape[0], query.shape[2], dtype=torch.bool, device=query.device)


def text_positions(mask: Tensor) -> Tensor:
    """Each token's position in its own row's text, (B, T); at pads that of the one before."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
