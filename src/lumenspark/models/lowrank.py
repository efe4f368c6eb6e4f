"""Low-rank linear layers, and causal low-rank attention as functions on tensors.

In attention each head keeps K slots for what lies far back, and reads the last blocks of ``window``
tokens exactly. A token that leaves the window is written to the slots with weights that sum to 1;
a slot holds the weighted mean of the keys and of the values written to it, and its logit gets the
logarithm of its weight, so that it counts for as many tokens as it stands for. With one token to a
slot this is dense attention. (Linformer, Wang et al. 2020, arXiv 2006.04768, made causal; ABC, Peng
et al. 2022, arXiv 2110.02488, is the family.)
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lowrank_attention_blocks import EMPTY, block_attention, slot_means
from .lowrank_attention_state import LowRankState, lay_out, take
from .peft_names import let_peft_reach


class LowRankLinear(nn.Module):
    """y = (x V) Uᵀ + b: a linear layer through ``rank`` features, r·(in + out) weights.

    Maps (..., in) to (..., out). ``V`` and ``U`` are plain linear layers, so that tools which look
    for ``nn.Linear`` find them: ``V.weight`` is (R, in), ``U.weight`` is (out, R).

    Raises ValueError for a rank that saves nothing, at or over in·out / (in + out).
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = False) -> None:
        super().__init__()
        most = highest_rank(in_features, out_features)
        if not 1 <= rank <= most:
            raise ValueError(
                f"rank {rank} for a layer from {in_features} to {out_features} features: take one "
                f"from 1 to {most}, beyond which a dense layer has no more weights"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.V = nn.Linear(in_features, rank, bias=False)
        self.U = nn.Linear(rank, out_features, bias=bias)
        # Where a model draws its weights anew, it meets V and U as layers of their own.
        self.V.factor_of_rank = self.U.factor_of_rank = rank  # type: ignore[assignment]
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float | None = None) -> None:
        """Draw the factors anew, so that each weight of the product has the deviation ``std``.

        Unless given, that of a dense ``nn.Linear`` of this shape: 1 / sqrt(3 in).
        """
        std = (3 * self.in_features) ** -0.5 if std is None else std
        nn.init.normal_(self.V.weight, std=factor_std(std, self.rank))
        nn.init.normal_(self.U.weight, std=factor_std(std, self.rank))
        if self.U.bias is not None:
            nn.init.zeros_(self.U.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.U(self.V(hidden))

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's own. peft asks for these before it looks a layer up by its name."""
        let_peft_reach(LowRankLinear)
        return super().named_modules(*args, **kwargs)

    def to_dense(self) -> nn.Linear:
        """The dense layer that computes the same."""
        weight = self.U.weight @ self.V.weight
        dense = nn.Linear(self.in_features, self.out_features, self.U.bias is not None)
        dense = dense.to(weight.device, weight.dtype)
        with torch.no_grad():
            dense.weight.copy_(weight)
            if self.U.bias is not None:
                dense.bias.copy_(self.U.bias)
        return dense

    @classmethod
    @torch.no_grad()
    def from_dense(cls, linear: nn.Linear, rank: int) -> tuple["LowRankLinear", float]:
        """The nearest layer of that rank (truncated SVD; Eckart and Young 1936), and its error.

        The error is relative: the norm of the weights' difference over the norm of the weights.
        """
        layer = cls(linear.in_features, linear.out_features, rank, linear.bias is not None)
        layer = layer.to(linear.weight.device, linear.weight.dtype)
        left, singular, right = torch.linalg.svd(linear.weight.float(), full_matrices=False)
        root = singular[:rank].sqrt()
        layer.U.weight.copy_(left[:, :rank] * root)
        layer.V.weight.copy_(root[:, None] * right[:rank])
        if linear.bias is not None:
            layer.U.bias.copy_(linear.bias)
        total = float(singular.square().sum())
        error = (float(singular[rank:].square().sum()) / total) ** 0.5 if total else 0.0
        return layer, error


def highest_rank(in_features: int, out_features: int) -> int:
    """The highest rank whose two factors have fewer weights than the dense layer."""
    return (in_features * out_features - 1) // (in_features + out_features)


def linear_std(layer: nn.Module, std: float) -> float:
    """The deviation to draw ``layer`` with, so that what it computes has weights of ``std``.

    Lower ones for the factors of a :class:`LowRankLinear`, which are marked as such.
    """
    rank = getattr(layer, "factor_of_rank", None)
    return std if rank is None else factor_std(std, int(rank))


def factor_std(std: float, rank: int) -> float:
    """The deviation of each of two factors whose product has the deviation ``std``.

    An entry of the product is a sum of ``rank`` products of independent entries.
    """
    return (std / rank**0.5) ** 0.5


Result = TypeVar("Result")

# How a token is written to the slots: from its key (B, H, T, D) and its position in its own row's
# text (1 or B, T) to its weights (B, H, T, K), which are >= 0 and sum to 1. None: no slots.
Project = Callable[[Tensor, Tensor], Tensor]


def without_autocast(function: Callable[..., Result]) -> Callable[..., Result]:
    """Products keep the dtype of what they are given: autocast would round the slots' sums."""

    @wraps(function)
    def exactly(query: Tensor, *args: Any, **kwargs: Any) -> Result:
        if not torch.amp.is_autocast_available(query.device.type):  # as on the meta device
            return function(query, *args, **kwargs)
        with torch.autocast(query.device.type, enabled=False):
            return function(query, *args, **kwargs)

    return exactly


@without_autocast
def naive(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project: Project | None,
    window: int,
    scaling: float,
    mask: Tensor | None = None,
) -> Tensor:
    """The definition: a loop over rows and queries. For tests.

    ``query``, ``key``, ``value`` (B, H, T, D); ``mask`` (B, T) boolean, False at pads. A query in
    block b of its row's own text attends, in one softmax, to the tokens of block b up to itself,
    to block b - 1, and to the slots, which hold the blocks before that. Returns (B, H, T, D),
    zeros at pads.
    """
    output = torch.zeros_like(query)
    for row in range(query.shape[0]):
        columns = torch.arange(query.shape[2], device=query.device)
        if mask is not None:
            columns = columns[mask[row]]
        q, k, v = (tensor[row : row + 1, :, columns] for tensor in (query, key, value))
        write = write_weights(project, k, torch.arange(len(columns), device=query.device)[None])
        for position, column in enumerate(columns.tolist()):
            near = max(0, (position // window - 1) * window)
            written = write[:, :, :near].float()  # (1, H, near, K)
            sums = written.transpose(-1, -2) @ torch.cat([k, v], -1)[:, :, :near].float()
            means, log_weight = slot_means(sums, written.sum(2))
            slot_keys, slot_values = means.to(key.dtype).chunk(2, dim=-1)
            seen = torch.cat([slot_keys, k[:, :, near : position + 1]], dim=2)
            scores = (seen * q[:, :, position, None]).sum(-1).float() * scaling
            scores = torch.cat(
                [scores[..., : write.shape[-1]] + log_weight, scores[..., write.shape[-1] :]], -1
            )
            weights = scores.softmax(-1).to(value.dtype)
            values = torch.cat([slot_values, v[:, :, near : position + 1]], dim=2)
            output[row, :, column] = (weights[..., None] * values).sum(2)[0]
    return output


@without_autocast
def chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project: Project | None,
    window: int,
    scaling: float,
    mask: Tensor | None = None,
    state: LowRankState | None = None,
    keep_state: bool = False,
) -> tuple[Tensor, LowRankState | None]:
    """:func:`naive` in O(T·(K + 2·window)·D), for training and for reading a prompt.

    With ``state`` the T tokens go on from it, wherever it ends; ``keep_state`` asks for the state
    after them. Returns (B, H, T, D), and that state or None.
    """
    if mask is None and state is None and not keep_state:
        return _chunked_unpadded(query, key, value, project, window, scaling), None
    if state is None:
        slot_count = write_weights(project, key[:, :, :1], key.new_zeros(1, 1).long()).shape[-1]
        state = LowRankState.empty(key, slot_count, window)
    layout = lay_out(mask, state, query.shape[2], window)
    key_value = torch.cat([state.recent, torch.cat([key, value], dim=-1)], dim=2)
    key_value = take(key_value, layout.key_columns)
    key_value = key_value.masked_fill(~layout.present[:, None, :, None], 0.0)
    query = take(query, layout.query_columns)
    query = query.masked_fill(~layout.present[:, None, window:, None], 0.0)
    written = layout.blocks * window  # the last block is still being read
    write = write_weights(
        project, key_value[:, :, :written, : key.shape[-1]], layout.positions[:, :written]
    )
    write = write.masked_fill(~layout.present[:, None, :written, None], 0.0).to(query.dtype)
    output = _in_blocks(
        query,
        key_value,
        write,
        state.slots,
        state.weight,
        ~layout.present[:, 0],
        window,
        scaling,
    )
    output = take(output, layout.output_columns)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0.0)
    return output, layout.state_after(state, key_value, write) if keep_state else None


def _chunked_unpadded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project: Project | None,
    window: int,
    scaling: float,
) -> Tensor:
    """:func:`chunked` where every row begins at position 0 and has no pads: as in training."""
    length = query.shape[2]
    near = 2 * window  # the first two blocks see all that comes before them: dense attention
    query, later = query.split([min(near, length), max(0, length - near)], dim=2)
    head = functional.scaled_dot_product_attention(
        query, key[:, :, :near], value[:, :, :near], is_causal=True, scale=scaling
    )
    if length <= near:
        return head
    rest = -length % window
    last = window - rest  # tokens in the last block, which is read, but not written any more
    parts = [window, length - window - last, last]
    write = write_weights(project, key, torch.arange(length, device=query.device)[None])
    write, write_later, _ = write.split(parts, dim=2)
    key_value = _pad_end(torch.cat([key, value], dim=-1), rest)
    key_value, key_value_later = key_value.split([window, length + rest - window], dim=2)
    tail = _in_blocks(
        _pad_end(later, rest),
        key_value_later,
        write_later.to(later.dtype),
        slots=write.float().transpose(-1, -2) @ key_value.float(),
        weight=write.float().sum(2),
        first=torch.zeros(len(query), dtype=torch.bool, device=query.device),
        window=window,
        scaling=scaling,
    )
    return torch.cat([head, tail[:, :, : length - near]], dim=2)


def _pad_end(tensor: Tensor, tokens: int) -> Tensor:
    """(B, H, T, C) with so many zeros after its tokens."""
    return functional.pad(tensor, (0, 0, 0, tokens)) if tokens else tensor


def _in_blocks(
    query: Tensor,
    key_value: Tensor,
    write: Tensor,
    slots: Tensor,
    weight: Tensor,
    first: Tensor,
    window: int,
    scaling: float,
) -> Tensor:
    """:func:`block_attention` on rows that are laid out in blocks: (B, H, blocks·window, D).

    ``first`` (B,) boolean: the row has no block before its first.
    """
    output = block_attention(
        query.flatten(0, 1).unflatten(1, (-1, window)),
        key_value.flatten(0, 1).unflatten(1, (-1, window)),
        write.flatten(0, 1).unflatten(1, (-1, window)),
        slots.flatten(0, 1),
        weight.flatten(0, 1),
        first.repeat_interleave(query.shape[1]),
        scaling,
    )
    return output.view(query.shape)


@without_autocast
def step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project: Project | None,
    window: int,
    scaling: float,
    state: LowRankState,
    mask: Tensor | None = None,
) -> tuple[Tensor, LowRankState]:
    """One token more: ``query``, ``key``, ``value`` (B, H, 1, D), ``mask`` (B, 1) False at a pad.

    Time and memory do not depend on how many came before. Without gradients ``state.recent`` is
    changed in place. Returns (B, H, 1, D) and the state after the token.
    """
    size = query.shape[-1]
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

    age = (position[:, None] - columns) % (2 * window)  # how long ago a column was written
    visible = age <= torch.minimum(position % window + window, position)[:, None]
    empty = state.weight < EMPTY
    weight = state.weight.masked_fill(empty, 1.0)
    scaled = query * scaling
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
    return output, _write_full_blocks(after, seen, project, window)


def _write_full_blocks(
    state: LowRankState, seen: Tensor, project: Project | None, window: int
) -> LowRankState:
    """In rows whose newest token filled a block: the one before the one before it to the slots."""
    count = state.count
    full = seen & (count % window == 0) & (count >= 2 * window)
    if not full.any():
        return state
    offsets = torch.arange(window, device=count.device)
    oldest = (count - 2 * window).clamp(min=0)[:, None] + offsets  # (B, window) positions
    leaving = take(state.recent, oldest % (2 * window)).float()
    size = leaving.shape[-1] // 2
    write = write_weights(project, leaving[..., :size].to(state.recent.dtype), oldest).float()
    write = write.masked_fill(~full[:, None, None, None], 0.0)
    slots = state.slots + write.transpose(-1, -2) @ leaving
    return LowRankState(state.recent, slots, state.weight + write.sum(2), count)


def write_weights(project: Project | None, key: Tensor, positions: Tensor) -> Tensor:
    """How tokens are written to the slots: (B, H, T, K), K = 0 where there are none."""
    if project is None:
        return key.new_zeros(*key.shape[:3], 0)
    write = project(key, positions)
    return write.expand(key.shape[0], *write.shape[1:])
