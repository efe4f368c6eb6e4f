"""Low-rank attention where several texts lie in one row: each is read as if it were alone."""

from typing import Any

import torch
from torch import Tensor

from .lowrank import chunked
from .lowrank_attention_map import lowrank_attention_map
from .packing import Texts


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: list[Texts],
    with_weights: bool,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """:func:`chunked` on each of the texts in ``query``, ``key`` and ``value`` (B, H, T, D).

    ``settings`` are its ``project``, ``window`` and ``scaling``. Returns (B, H, T, D), zeros at
    pads, and when asked for the weights (B, H, T, T), zeros between texts.
    """
    rows, _, length, _ = query.shape
    tokens = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]  # (B·T, H, D)
    output = torch.zeros_like(tokens[2])
    weights = query.new_zeros(rows, query.shape[1], length, length) if with_weights else None
    for texts in groups:
        laid_out = [tensor[texts.columns].transpose(1, 2) for tensor in tokens]  # (N, H, L, D)
        mask = None if texts.full else texts.present
        read, _ = chunked(*laid_out, **settings, mask=mask)
        output = output.index_copy(0, texts.tokens, read.transpose(1, 2)[texts.present])
        if weights is not None:
            maps = lowrank_attention_map(*laid_out[:2], **settings, mask=mask)
            _put_maps(weights, maps, texts)
    return output.unflatten(0, (rows, length)).transpose(1, 2), weights


def _put_maps(weights: Tensor, maps: Tensor, texts: Texts) -> None:
    """Write each text's map, (N, H, L, L) in all, to where it lies in ``weights`` (B, H, T, T)."""
    length = weights.shape[-1]
    for text, (columns, present) in enumerate(zip(texts.columns, texts.present, strict=True)):
        places = columns[present]
        row, inside = int(places[0]) // length, places % length
        weights[row][:, inside[:, None], inside] = maps[text][:, present][:, :, present]
