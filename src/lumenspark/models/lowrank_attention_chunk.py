"""Causal low-rank attention block by block: for training, and for prefill."""

import torch
from torch import Tensor
from torch.nn import functional

from .lowrank_attention_blocks import block_attention
from .lowrank_attention_slots import LowRankSettings, without_autocast
from .lowrank_attention_state import LowRankState, lay_out, take


@without_autocast
def chunk_lowrank_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    settings: LowRankSettings,
    mask: Tensor | None = None,
    state: LowRankState | None = None,
    return_state: bool = False,
) -> tuple[Tensor, LowRankState | None]:
    """``naive_lowrank_attention`` in O(T·(K + 2·window)·D).

    With ``state`` the T tokens continue from it, at any position in a block. Returns (B, H, T, D)
    and, for ``return_state``, the state after the tokens (else None).
    """
    if mask is None and state is None and not return_state:
        return _chunk_unpadded(query, key, value, settings), None
    window = settings.window
    if state is None:
        slot_count = settings.write_weights(key[:, :, :1], key.new_zeros(1, 1).long()).shape[-1]
        state = LowRankState.empty(key, slot_count, window)
    layout = lay_out(mask, state, query.shape[2], window)
    key_value = torch.cat([state.recent, torch.cat([key, value], dim=-1)], dim=2)
    key_value = take(key_value, layout.key_columns)
    key_value = key_value.masked_fill(~layout.present[:, None, :, None], 0.0)
    query = take(query, layout.query_columns)
    query = query.masked_fill(~layout.present[:, None, window:, None], 0.0)
    written = layout.blocks * window  # queries still attend to the last block
    write = settings.write_weights(
        key_value[:, :, :written, : key.shape[-1]], layout.positions[:, :written]
    )
    write = write.masked_fill(~layout.present[:, None, :written, None], 0.0).to(query.dtype)
    output = _attend_in_blocks(
        query, key_value, write, state.slots, state.weight, ~layout.present[:, 0], settings
    )
    output = take(output, layout.output_columns)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0.0)
    return output, layout.state_after(state, key_value, write) if return_state else None


def _chunk_unpadded(query: Tensor, key: Tensor, value: Tensor, settings: LowRankSettings) -> Tensor:
    """:func:`chunk_lowrank_attention` for rows from position 0 without pads: as in training."""
    length, window = query.shape[2], settings.window
    near = 2 * window  # the first two blocks attend to every earlier token: dense attention
    query, later = query.split([min(near, length), max(0, length - near)], dim=2)
    head = functional.scaled_dot_product_attention(
        query, key[:, :, :near], value[:, :, :near], is_causal=True, scale=settings.scaling
    )
    if length <= near:
        return head
    rest = -length % window
    last = window - rest  # tokens in the last block, which is read, but never written
    parts = [window, length - window - last, last]
    write = settings.write_weights(key, torch.arange(length, device=query.device)[None])
    write, write_later, _ = write.split(parts, dim=2)
    key_value = _pad_end(torch.cat([key, value], dim=-1), rest)
    key_value, key_value_later = key_value.split([window, length + rest - window], dim=2)
    tail = _attend_in_blocks(
        _pad_end(later, rest),
        key_value_later,
        write_later.to(later.dtype),
        slots=write.float().transpose(-1, -2) @ key_value.float(),
        weight=write.float().sum(2),
        first=torch.zeros(len(query), dtype=torch.bool, device=query.device),
        settings=settings,
    )
    return torch.cat([head, tail[:, :, : length - near]], dim=2)


def _pad_end(tensor: Tensor, tokens: int) -> Tensor:
    """(B, H, T, C) with ``tokens`` zeros appended along T."""
    return functional.pad(tensor, (0, 0, 0, tokens)) if tokens else tensor


def _attend_in_blocks(
    query: Tensor,
    key_value: Tensor,
    write: Tensor,
    slots: Tensor,
    weight: Tensor,
    first: Tensor,
    settings: LowRankSettings,
) -> Tensor:
    """:func:`block_attention` for rows laid out in blocks: (B, H, blocks·window, D).

    ``first`` (B,) boolean: there is no block before the row's first.
    """
    output = block_attention(
        query.flatten(0, 1).unflatten(1, (-1, settings.window)),
        key_value.flatten(0, 1).unflatten(1, (-1, settings.window)),
        write.flatten(0, 1).unflatten(1, (-1, settings.window)),
        slots.flatten(0, 1),
        weight.flatten(0, 1),
        first.repeat_interleave(query.shape[1]),
        settings.scaling,
    )
    return output.view(query.shape)
