"""Causal low-rank attention token by token: for decoding."""

import math

import torch
from torch import Tensor

from .lowrank_attention_slots import EMPTY, LowRankSettings, without_autocast
from .lowrank_attention_state import LowRankState, take


@without_autocast
def recurrent_lowrank_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    settings: LowRankSettings,
    state: LowRankState,
    mask: Tensor | None = None,
) -> tuple[Tensor, LowRankState]:
    """One more token: ``query``, ``key``, ``value`` (B, H, 1, D), ``mask`` (B, 1) False at a pad.

    Time and memory do not depend on the number of earlier tokens. Without gradients
    ``state.recent`` is changed in place. Returns (B, H, 1, D) and the state after the token.
    """
    window, size = settings.window, query.shape[-1]
    position = state.count  # (B,)
    columns = torch.arange(2 * window, device=query.device)
    in_place = not torch.is_grad_enabled() and (
        torch.is_inference_mode_enabled() or not state.recent.is_inference()
    )
    recent = state.recent if in_place else state.recent.clone()
    rows, column = torch.arange(len(position), device=query.device), position % (2 * window)
    token = torch.cat([key, value], dim=-1)[:, :, 0]
    if mask is not None:
        token = torch.where(mask[:, :, None], token, recent[rows, :, column])
    recent[rows, :, column] = token

    age = (position[:, None] - columns) % (2 * window)  # tokens since a column was written
    visible = age <= torch.minimum(position % window + window, position)[:, None]
    empty = state.weight < EMPTY
    weight = state.weight.masked_fill(empty, 1.0)
    scaled = query * settings.scaling
    slot_scores = (scaled.float() @ state.slots[..., :size].transpose(-1, -2)) / weight[:, :, None]
    slot_scores = (slot_scores + weight.log()[:, :, None]).masked_fill(empty[:, :, None], -math.inf)
    recent_scores = (scaled @ recent[..., :size].transpose(-1, -2)).float()
    recent_scores = recent_scores.masked_fill(~visible[:, None, None], -math.inf)
    weights = torch.cat([slot_scores, recent_scores], dim=-1).softmax(-1)
    slot_weights, recent_weights = weights.split([weight.shape[-1], 2 * window], dim=-1)
    output = recent_weights.to(value.dtype) @ recent[..., size:]
    output = output + ((slot_weights / weight[:, :, None]) @ state.slots[..., size:]).to(output)
    seen = torch.ones_like(position, dtype=torch.bool) if mask is None else mask[:, 0]
    output = output.masked_fill(~seen[:, None, None, None], 0.0)
    after = LowRankState(recent, state.slots, state.weight, position + seen)
    return output, _write_full_blocks(after, seen, settings)


def _write_full_blocks(
    state: LowRankState, seen: Tensor, settings: LowRankSettings
) -> LowRankState:
    """In rows whose new token filled a block, write the second-newest full block to the slots."""
    count, window = state.count, settings.window
    full = seen & (count % window == 0) & (count >= 2 * window)
    if not full.any():
        return state
    offsets = torch.arange(window, device=count.device)
    oldest = (count - 2 * window).clamp(min=0)[:, None] + offsets  # (B, window) positions
    leaving = take(state.recent, oldest % (2 * window)).float()
    size = leaving.shape[-1] // 2
    write = settings.write_weights(leaving[..., :size].to(state.recent.dtype), oldest).float()
    write = write.masked_fill(~full[:, None, None, None], 0.0)
    slots = state.slots + write.transpose(-1, -2) @ leaving
    return LowRankState(state.recent, slots, state.weight + write.sum(2), count)
