"""The definition of causal low-rank attention, as a loop. For tests."""

import torch
from torch import Tensor

from .lowrank_attention_slots import LowRankSettings, slot_means, without_autocast


@without_autocast
def naive_lowrank_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    settings: LowRankSettings,
    mask: Tensor | None = None,
) -> Tensor:
    """A loop over rows and queries.

    ``query``, ``key``, ``value`` (B, H, T, D); ``mask`` (B, T) boolean, False at pads. A query in
    block b of its row's text attends, in one softmax, to the tokens of block b up to itself, to
    block b - 1, and to the slots, which hold all earlier blocks. Returns (B, H, T, D), zeros at
    pads.
    """
    window = settings.window
    output = torch.zeros_like(query)
    for row in range(query.shape[0]):
        columns = torch.arange(query.shape[2], device=query.device)
        if mask is not None:
            columns = columns[mask[row]]
        q, k, v = (tensor[row : row + 1, :, columns] for tensor in (query, key, value))
        write = settings.write_weights(k, torch.arange(len(columns), device=query.device)[None])
        for position, column in enumerate(columns.tolist()):
            near = max(0, (position // window - 1) * window)
            written = write[:, :, :near].float()  # (1, H, near, K)
            sums = written.transpose(-1, -2) @ torch.cat([k, v], -1)[:, :, :near].float()
            means, log_weight = slot_means(sums, written.sum(2))
            slot_keys, slot_values = means.to(key.dtype).chunk(2, dim=-1)
            seen = torch.cat([slot_keys, k[:, :, near : position + 1]], dim=2)
            scores = (seen * q[:, :, position, None]).sum(-1).float() * settings.scaling
            scores = torch.cat(
                [scores[..., : write.shape[-1]] + log_weight, scores[..., write.shape[-1] :]], -1
            )
            weights = scores.softmax(-1).to(value.dtype)
            values = torch.cat([slot_values, v[:, :, near : position + 1]], dim=2)
            output[row, :, column] = (weights[..., None] * values).sum(2)[0]
    return output
