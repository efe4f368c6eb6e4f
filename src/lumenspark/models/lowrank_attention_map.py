"""Attention weights of low-rank attention, by slot and by token. O(T²).

The steps: tokens are written to the slots (``LowRankSettings.write_weights``), queries read slots
and near tokens (:func:`read_weights`), and both combine to token-to-token weights
(:func:`token_weights`). Each step takes the result of the one before, so that a caller can change
it in between.
"""

import math

import torch
from torch import Tensor

from .lowrank_attention_slots import EMPTY, LowRankSettings, slot_means, without_autocast


@without_autocast
def lowrank_attention_map(
    query: Tensor,
    key: Tensor,
    settings: LowRankSettings,
    mask: Tensor | None = None,
) -> Tensor:
    """Each query's weight on each token, directly or through the slots: (B, H, T, T).

    A slot's weight is divided among its tokens in proportion to their write weights. Rows sum to 1
    (to 0 at pads), and the map times the values is the attention output.
    """
    mask = all_present(query) if mask is None else mask
    write = settings.write_weights(key, text_positions(mask))
    read, near, weight = read_weights(query, key, write, settings, mask)
    return token_weights(read, near, weight, write, settings, mask).to(query.dtype)


@without_autocast
def read_weights(
    query: Tensor, key: Tensor, write: Tensor, settings: LowRankSettings, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Each query's softmax, over the slots (B, H, T, K) and the near tokens (B, H, T, T) jointly.

    ``query`` and ``key`` (B, H, T, D), ``write`` (B, H, T, K), ``mask`` (B, T) boolean, False at
    pads. The third result (B, H, T, K) is the total weight of each slot when the query reads it, 1
    for an empty slot. All float32.
    """
    batch, heads, length, _ = query.shape
    positions = text_positions(mask)
    blocks = positions // settings.window
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
        scores = ((query * settings.scaling) @ means.to(key.dtype).transpose(-1, -2)).float()
        here = (blocks == block)[:, None, :, None]
        slot_scores = torch.where(here, scores + log_weight[:, :, None], slot_scores)
        weights = torch.where(here & (weight >= EMPTY)[:, :, None], weight[:, :, None], weights)

    apart = blocks[:, :, None] - blocks[:, None, :]  # (B, T, T): blocks between query and token
    direct = (apart <= 1) & (positions[:, :, None] >= positions[:, None, :]) & mask[:, None, :]
    scores = ((query * settings.scaling) @ key.transpose(-1, -2)).float()
    scores = scores.masked_fill(~(direct & mask[:, :, None])[:, None], -math.inf)
    # A pad attends to nothing; its row of -inf would give NaN. The result is zeroed below.
    scores = scores.masked_fill(~mask[:, None, :, None], 0.0)
    both = torch.cat([slot_scores, scores], dim=-1).softmax(-1) * mask[:, None, :, None]
    read, near = both.split([write.shape[-1], length], dim=-1)
    return read, near, weights


@without_autocast
def token_weights(
    read: Tensor,
    near: Tensor,
    weight: Tensor,
    write: Tensor,
    settings: LowRankSettings,
    mask: Tensor,
) -> Tensor:
    """Token-to-token weights (B, H, T, T) from the results of :func:`read_weights`.

    A slot's weight is divided among the tokens it held at that query, by their write weights.
    """
    blocks = text_positions(mask) // settings.window
    held = (blocks[:, :, None] - blocks[:, None, :] > 1)[:, None]
    write = write.float() * mask[:, None, :, None]
    return near + (read / weight) @ write.transpose(-1, -2) * held


def all_present(query: Tensor) -> Tensor:
    """A mask (B, T) without pads, for queries (B, H, T, D)."""
    return torch.ones(query.shape[0], query.shape[2], dtype=torch.bool, device=query.device)


def text_positions(mask: Tensor) -> Tensor:
    """Each token's position in its row's text, (B, T); at pads, that of the token before."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
