"""Low-rank attention for packed rows: each text is attended to separately."""

import torch
from torch import Tensor

from .lowrank_attention_chunk import chunk_lowrank_attention
from .lowrank_attention_map import lowrank_attention_map
from .lowrank_attention_slots import LowRankSettings
from .packing import Texts


def packed_lowrank_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    settings: LowRankSettings,
    groups: list[Texts],
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """:func:`chunk_lowrank_attention` on each text in ``query``, ``key``, ``value`` (B, H, T, D).

    Returns (B, H, T, D), zeros at pads, and for ``output_attentions`` the weights (B, H, T, T),
    zeros between texts.
    """
    rows, _, length, _ = query.shape
    tokens = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]  # (B·T, H, D)
    output = torch.zeros_like(tokens[2])
    weights = None
    if output_attentions:
        weights = query.new_zeros(rows, query.shape[1], length, length)
    for texts in groups:
        q, k, v = (tensor[texts.columns].transpose(1, 2) for tensor in tokens)  # (N, H, L, D)
        mask = None if texts.full else texts.present
        mixed, _ = chunk_lowrank_attention(q, k, v, settings, mask)
        output = output.index_copy(0, texts.tokens, mixed.transpose(1, 2)[texts.present])
        if weights is not None:
            _scatter_maps(weights, lowrank_attention_map(q, k, settings, mask), texts)
    return output.unflatten(0, (rows, length)).transpose(1, 2), weights


def _scatter_maps(weights: Tensor, maps: Tensor, texts: Texts) -> None:
    """Write each text's map, (N, H, L, L) in all, to its position in ``weights`` (B, H, T, T)."""
    length = weights.shape[-1]
    for text, (columns, present) in enumerate(zip(texts.columns, texts.present, strict=True)):
        places = columns[present]
        row, inside = int(places[0]) // length, places % length
        weights[row][:, inside[:, None], inside] = maps[text][:, present][:, :, present]
