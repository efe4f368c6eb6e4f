"""The block kernel of ``chunk_lowrank_attention``, with its own backward pass.

The sequence is processed in segments of a few blocks, small enough for a CPU's cache. The forward
pass saves its inputs, its output and the slots at the start of each segment; the backward pass
visits the segments from last to first and recomputes the weights, as flash attention does (Dao et
al. 2022, arXiv 2205.14135). Saved memory is O(T·(D + K)) plus the slots once per segment;
intermediates have the size of one segment.

Shapes: N rows (batch times heads), G blocks of ``w`` queries, D features, K slots. There is one
more block of keys than of queries: the one before the first. Keys and values are concatenated,
(..., 2D), so that one product writes both to the slots.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .lowrank_attention_slots import EMPTY

# Scores in one segment: 2 MiB of float32 on a CPU, so that they stay in its cache (measured:
# docs/log.md); a GPU needs large products instead.
SCORES_PER_SEGMENT = {"cpu": 2**19, "other": 2**26}


# Not compiled: unrolled, its loops take 90 seconds to compile and then run at little more
# than half the speed (docs/log.md).
@torch.compiler.disable
def block_attention(
    query: Tensor,
    key_value: Tensor,
    write: Tensor,
    slots: Tensor,
    weight: Tensor,
    first: Tensor,
    scaling: float,
    segment: int | None = None,
) -> Tensor:
    """Attention of each block's queries to their block, the one before it, and the slots.

    ``query`` (N, G, w, D); ``key_value`` (N, G + 1, w, 2D); ``write`` (N, G, w, K), the weights
    with which every block of keys but the last is written to the slots (zeros: not written);
    ``slots`` (N, K, 2D) and ``weight`` (N, K), float32: the sums before the first block;
    ``first`` (N,) boolean: the first block of keys is missing.

    Returns (N, G, w, D). ``segment`` is the number of blocks computed at once.
    """
    if segment is None:
        rows, _, width, _ = query.shape
        scores = rows * width * (write.shape[-1] + 2 * width)
        kind = "cpu" if query.device.type == "cpu" else "other"
        segment = max(1, SCORES_PER_SEGMENT[kind] // scores)
    output: Tensor = _BlockAttention.apply(
        query, key_value, write, slots, weight, first, scaling, segment
    )
    return output


class _Segment:
    """Quantities of one segment that the forward and the backward pass share."""

    def __init__(
        self,
        query: Tensor,
        key_value: Tensor,
        write: Tensor,
        slots: Tensor,
        weight: Tensor,
        first: Tensor | None,
        scaling: float,
    ) -> None:
        width, slot_count = query.shape[2], write.shape[-1]
        written = key_value[:, :-1]
        sums = _running_sums(slots, write.transpose(-1, -2) @ written)  # (N, G + 1, K, 2D)
        weights = _running_sums(weight, write.sum(2, dtype=torch.float32))
        # Copies: these are saved for the backward pass, and a view would keep all sums alive.
        self.slots_after, self.weight_after = sums[:, -1].clone(), weights[:, -1].clone()
        self.weight = weights[:, :-1]
        # A token's share of a slot; 0 in an empty slot.
        empty = self.weight < EMPTY
        self.shares = self.weight.reciprocal().masked_fill_(empty, 0.0)
        means = (sums[:, :-1] * self.shares[..., None]).to(query.dtype)
        self.keys_values = torch.cat([means, written, key_value[:, 1:]], dim=2)
        self.keys, self.values = self.keys_values.chunk(2, dim=-1)

        scores = ((query * scaling) @ self.keys.transpose(-1, -2)).float()  # (N, G, w, K + 2w)
        scores[..., :slot_count] += self.weight.log().masked_fill_(empty, -math.inf)[:, :, None]
        later = torch.full((width, width), -math.inf, device=query.device).triu(1)
        scores[..., slot_count + width :] += later
        if first is not None:
            before = scores[:, 0, :, slot_count : slot_count + width]
            before.masked_fill_(first[:, None, None], -math.inf)
        self.weights = scores.softmax(dim=-1)


def _running_sums(start: Tensor, parts: Tensor) -> Tensor:
    """(N, G + 1, …) float32: ``start``, then ``start`` plus the ``parts`` (N, G, …) so far."""
    sums = start.new_empty(parts.shape[0], parts.shape[1] + 1, *parts.shape[2:])
    sums[:, 0] = start
    for block in range(parts.shape[1]):  # torch's cumsum over this dimension is many times slower
        torch.add(sums[:, block], parts[:, block], out=sums[:, block + 1])
    return sums


def _reverse_running_sums(end: Tensor, parts: Tensor) -> Tensor:
    """(N, G + 1, …) float32: ``end`` plus the ``parts`` (N, G, …) from each on; last, ``end``."""
    sums = end.new_empty(parts.shape[0], parts.shape[1] + 1, *parts.shape[2:])
    sums[:, -1] = end
    for block in reversed(range(parts.shape[1])):
        torch.add(sums[:, block + 1], parts[:, block], out=sums[:, block])
    return sums


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key_value: Tensor,
        write: Tensor,
        slots: Tensor,
        weight: Tensor,
        first: Tensor,
        scaling: float,
        segment: int,
    ) -> Tensor:
        output = torch.empty_like(query)
        starts = []
        for begin in range(0, query.shape[1], segment):
            end = min(begin + segment, query.shape[1])
            starts += [slots, weight]
            part = _Segment(
                query[:, begin:end],
                key_value[:, begin : end + 1],
                write[:, begin:end],
                slots,
                weight,
                first if begin == 0 else None,
                scaling,
            )
            output[:, begin:end] = part.weights.to(query.dtype) @ part.values
            slots, weight = part.slots_after, part.weight_after
        ctx.save_for_backward(query, key_value, write, first, output, *starts)
        ctx.scaling, ctx.segment = scaling, segment
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key_value, write, first, output, *starts = ctx.saved_tensors
        (width, size), slot_count = query.shape[2:], write.shape[-1]
        grad_query = torch.empty_like(query)
        grad_key_value = torch.zeros_like(key_value)
        grad_write = torch.empty_like(write)
        grad_slots, grad_weight = torch.zeros_like(starts[0]), torch.zeros_like(starts[1])
        for begin in reversed(range(0, query.shape[1], ctx.segment)):
            end = min(begin + ctx.segment, query.shape[1])
            queries, grads = query[:, begin:end], grad_output[:, begin:end]
            written, writes = key_value[:, begin:end], write[:, begin:end]
            slots, weight = starts[2 * (begin // ctx.segment) :][:2]
            part = _Segment(
                queries,
                key_value[:, begin : end + 1],
                writes,
                slots,
                weight,
                first if begin == 0 else None,
                ctx.scaling,
            )
            # Through the softmax to queries, keys and values.
            grad_scores = (grads @ part.values.transpose(-1, -2)).float()
            grad_scores -= (grads * output[:, begin:end]).sum(-1, keepdim=True, dtype=torch.float32)
            grad_scores *= part.weights
            scores_here = grad_scores.to(query.dtype) * ctx.scaling
            grad_query[:, begin:end] = scores_here @ part.keys
            grad_keys = scores_here.transpose(-1, -2) @ queries
            grad_values = part.weights.to(query.dtype).transpose(-1, -2) @ grads
            for grad, read in (
                (grad_key_value[:, begin:end], slice(slot_count, slot_count + width)),
                (grad_key_value[:, begin + 1 : end + 1], slice(slot_count + width, None)),
            ):
                grad[..., :size] += grad_keys[:, :, read]
                grad[..., size:] += grad_values[:, :, read]

            # Through the slot means to the sums, and through the sums to the tokens written.
            grad_means = torch.cat(
                [grad_keys[:, :, :slot_count], grad_values[:, :, :slot_count]], dim=-1
            ).float()
            means = part.keys_values[:, :, :slot_count]
            grad_weights = grad_scores[..., :slot_count].sum(2) - (grad_means * means).sum(-1)
            grad_sums = _reverse_running_sums(grad_slots, grad_means * part.shares[..., None])
            grad_weights = _reverse_running_sums(grad_weight, grad_weights * part.shares)
            grad_slots, grad_weight = grad_sums[:, 0], grad_weights[:, 0]
            grad_parts = grad_sums[:, 1:].to(query.dtype)
            grad_write[:, begin:end] = written @ grad_parts.transpose(-1, -2)
            grad_write[:, begin:end] += grad_weights[:, 1:, None]
            grad_key_value[:, begin:end] += writes @ grad_parts
        return grad_query, grad_key_value, grad_write, grad_slots, grad_weight, None, None, None
