"""Causal low-rank attention written down once more, slowly: one row, one head, one query at a time.

Beside it what its tests share: ways to write tokens to slots, and cases that hypothesis draws.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from lumenspark.models.lowrank_attention_chunk import chunk_lowrank_attention
from lumenspark.models.lowrank_attention_naive import naive_lowrank_attention
from lumenspark.models.lowrank_attention_recurrent import recurrent_lowrank_attention
from lumenspark.models.lowrank_attention_slots import LowRankSettings, Project
from lumenspark.models.lowrank_attention_state import LowRankState

PADDINGS = ["none", "left", "right", "anywhere"]


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    settings: LowRankSettings,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output (B, H, T, D), and how much each query draws from each token (B, H, T, T)."""
    batch, heads, length, _ = query.shape
    output = torch.zeros_like(query)
    drawn = query.new_zeros(batch, heads, length, length)
    for row in range(batch):
        real = torch.arange(length) if mask is None else mask[row].nonzero()[:, 0]
        if len(real) == 0:
            continue
        q, k, v = (tensor[row, :, real] for tensor in (query, key, value))
        phi = query.new_zeros(heads, len(real), 0)
        if settings.project is not None:
            phi = settings.project(k[None], torch.arange(len(real))[None])[0]
        for head in range(heads):
            for position in range(len(real)):
                attended, weights = plain_query(
                    position,
                    q[head],
                    k[head],
                    v[head],
                    phi[head],
                    settings.window,
                    settings.scaling,
                )
                output[row, head, real[position]] = attended
                drawn[row, head, real[position], real] = weights
    return output, drawn


def plain_query(
    position: int, q: Tensor, k: Tensor, v: Tensor, phi: Tensor, window: int, scaling: float
) -> tuple[Tensor, Tensor]:
    """What the query at ``position`` gets (D,), and its weight for each of the n tokens (n,)."""
    positions = torch.arange(len(k))
    block, blocks = position // window, positions // window
    near = (positions <= position) & (blocks >= block - 1)
    far = blocks < block - 1
    z = phi[far].sum(0)
    phi, z = phi[:, z > 0], z[z > 0]  # an empty slot has no weight
    slot_keys = phi[far].T @ k[far] / z[:, None]
    slot_values = phi[far].T @ v[far] / z[:, None]
    on_slots, on_tokens = slot_keys @ q[position] * scaling, k[near] @ q[position] * scaling
    logits = torch.cat([on_slots + z.log(), on_tokens])
    odds = torch.exp(logits - logits.max().detach())
    on_slots, on_tokens = (odds / odds.sum()).split([len(z), int(near.sum())])
    weights = torch.zeros_like(k[:, 0])
    weights[far] = phi[far] / z @ on_slots
    weights[near] = on_tokens
    return on_slots @ slot_values + on_tokens @ v[near], weights


def by_content(weight: Tensor) -> Project:
    """Slots chosen by the key, with ``weight`` (H, D, K)."""
    return lambda key, positions: (key @ weight).softmax(-1)


def by_position(table: Tensor) -> Project:
    """Slots chosen by the position alone, with ``table`` (H, n, K): no position beyond n."""
    return lambda key, positions: table[:, positions].transpose(0, 1).softmax(-1)


@dataclass
class Case:
    """One call's arguments. ``write`` makes the projection of ``parameter``; None: no slots."""

    query: Tensor
    key: Tensor
    value: Tensor
    parameter: Tensor | None
    write: Callable[[Tensor], Project]
    window: int
    mask: Tensor | None
    scaling: float

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.tokens, *([] if self.parameter is None else [self.parameter])]

    @property
    def project(self) -> Project | None:
        return None if self.parameter is None else self.write(self.parameter)

    @property
    def settings(self) -> LowRankSettings:
        return LowRankSettings(self.project, self.window, self.scaling)

    def __getitem__(self, columns: slice) -> "Case":
        query, key, value = (tensor[:, :, columns] for tensor in self.tokens)
        mask = None if self.mask is None else self.mask[:, columns]
        return replace(self, query=query, key=key, value=value, mask=mask)

    def row(self, row: int) -> "Case":
        """A row's own text, without its pads."""
        real = slice(None) if self.mask is None else self.mask[row]
        query, key, value = (tensor[row : row + 1, :, real] for tensor in self.tokens)
        return replace(self, query=query, key=key, value=value, mask=None)

    def doubled(self) -> "Case":
        """The same numbers in float64, as leaves of their own."""
        query, key, value, *parameter = (
            leaf.detach().double().requires_grad_() for leaf in self.leaves
        )
        return replace(
            self, query=query, key=key, value=value, parameter=parameter[0] if parameter else None
        )

    def empty_state(self) -> LowRankState:
        slots = 0
        if self.project is not None:
            slots = self.project(self.key[:, :, :1], torch.zeros(1, 1).long()).shape[-1]
        return LowRankState.empty(self.key, slots, self.window)


def make_case(
    batch: int = 2,
    heads: int = 2,
    length: int = 13,
    size: int = 4,
    slot_count: int = 3,
    window: int = 2,
    write: Callable[[Tensor], Project] = by_content,
    padding: str = "none",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Noise with gradients. The first of several padded rows is all padding."""
    noise = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise).to(dtype).requires_grad_()

    real = torch.randint(0, length + 1, (batch, 1), generator=noise)
    if batch > 1:
        real[0] = 0
    columns = torch.arange(length)
    masks = {
        "none": None,
        "left": columns >= length - real,
        "right": columns < real,
        "anywhere": torch.rand(batch, length, generator=noise) * length < real,
    }
    rows = size if write is by_content else length
    return Case(
        query=leaf(batch, heads, length, size),
        key=leaf(batch, heads, length, size),
        value=leaf(batch, heads, length, size),
        parameter=leaf(heads, rows, slot_count) if slot_count else None,
        write=write,
        window=window,
        mask=masks[padding],
        scaling=size**-0.5,
    )


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Case:
    """From 1 token to 7 blocks, with 0 slots to one for each token."""
    window = draw(st.sampled_from([3, 1, 2, 4, 5]))
    length = draw(st.integers(0, 6)) * window + draw(st.integers(1, window))
    return make_case(
        batch=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 2)),
        length=length,
        size=draw(st.integers(1, 6)),
        slot_count=draw(st.one_of(st.integers(0, length), st.just(length))),
        window=window,
        write=draw(st.sampled_from([by_content, by_position])),
        padding=draw(st.sampled_from(PADDINGS)),
        dtype=dtype,
        seed=draw(st.integers(0, 2**32)),
    )


def by_naive(case: Case) -> Tensor:
    return naive_lowrank_attention(*case.tokens, case.settings, case.mask)


def by_chunk(case: Case) -> Tensor:
    return chunk_lowrank_attention(*case.tokens, case.settings, case.mask)[0]


def by_chunk_with_state(case: Case) -> Tensor:
    return chunk_lowrank_attention(*case.tokens, case.settings, case.mask, return_state=True)[0]


def by_pieces(case: Case) -> Tensor:
    """Of 1, 2, 3 … tokens, and the rest."""
    length = case.query.shape[2]
    lengths: list[int] = []
    while sum(lengths) < length:
        lengths.append(min(len(lengths) + 1, length - sum(lengths)))
    return in_pieces(case, lengths)[0]


def by_recurrent(case: Case) -> Tensor:
    return in_steps(case)[0]


FORMS = [by_naive, by_chunk, by_chunk_with_state, by_pieces, by_recurrent]


def in_steps(case: Case, state: LowRankState | None = None) -> tuple[Tensor, LowRankState]:
    """Token after token, from the state or from the beginning."""
    state = state or case.empty_state()
    outputs = [torch.zeros_like(case.query[:, :, :0])]
    for column in range(case.query.shape[2]):
        token = case[column : column + 1]
        output, state = recurrent_lowrank_attention(
            *token.tokens, token.settings, state, token.mask
        )
        outputs.append(output)
    return torch.cat(outputs, dim=2), state


def in_pieces(
    case: Case, lengths: list[int], state: LowRankState | None = None
) -> tuple[Tensor, LowRankState]:
    """Piece after piece, each going on from the state of the one before."""
    state = state or case.empty_state()
    outputs, begin = [torch.zeros_like(case.query[:, :, :0])], 0
    for length in lengths:
        piece = case[begin : begin + length]
        output, state = chunk_lowrank_attention(
            *piece.tokens, piece.settings, piece.mask, state, return_state=True
        )
        outputs.append(output)
        begin += length
    return torch.cat(outputs, dim=2), state


def gradients(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Of the output along some direction; zeros where nothing depends on a leaf."""
    noise = torch.Generator().manual_seed(1)
    direction = torch.randn(output.shape, generator=noise).to(output)
    if not output.requires_grad:  # every token of every row is a pad
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(
        torch.autograd.grad(output, leaves, direction, allow_unused=True, materialize_grads=True)
    )


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Everywhere within ``tolerance`` of the largest number expected, or of 1 if that is larger."""
    largest = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance * largest)
