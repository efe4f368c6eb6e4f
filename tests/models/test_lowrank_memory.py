"""What causal low-rank attention keeps and allocates: a state of fixed size, nothing square."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_lowrank import (
    Case,
    assert_near,
    by_content,
    by_position,
    in_pieces,
    in_steps,
    make_case,
)
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumenspark.models.lowrank_attention_blocks import SCORES_PER_SEGMENT
from lumenspark.models.lowrank_attention_chunk import chunk_lowrank_attention
from lumenspark.models.lowrank_attention_recurrent import recurrent_lowrank_attention
from lumenspark.models.lowrank_attention_slots import Project
from lumenspark.models.lowrank_attention_state import LowRankState

HEADS, SIZE, SLOTS, WINDOW = 2, 4, 3, 2


def tensors_of(state: LowRankState) -> list[Tensor]:
    return [state.recent, state.slots, state.weight, state.count]


def states_after(length: int, dtype: torch.dtype) -> list[LowRankState]:
    """After so many tokens, by each of the forms that give one."""
    case = make_case(3, HEADS, length, SIZE, SLOTS, WINDOW, dtype=dtype)
    with torch.no_grad():
        whole = chunk_lowrank_attention(*case.tokens, case.settings, return_state=True)[1]
        return [in_steps(case)[1], whole, in_pieces(case, [length // 2, length - length // 2])[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 29, 400])
def test_the_state_has_one_size_however_many_tokens_came(length: int, dtype: torch.dtype) -> None:
    numbers = SLOTS * (2 * SIZE + 1) + 2 * WINDOW * 2 * SIZE
    for state in states_after(length, dtype):
        *numeric, count = tensors_of(state)
        assert sum(tensor.numel() for tensor in numeric) == 3 * HEADS * numbers
        assert torch.equal(count, torch.full((3,), length))
        assert state.recent.dtype == dtype
        assert state.slots.dtype == state.weight.dtype == torch.float32
        of_recent, exact = 2 * WINDOW * 2 * SIZE * dtype.itemsize, SLOTS * (2 * SIZE + 1) * 4
        assert state.nbytes == 3 * (HEADS * (of_recent + exact) + 8)
        for tensor in tensors_of(state):  # and it holds no larger tensor alive
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("write", [by_content, by_position])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 14])
def test_the_state_holds_the_sums_of_what_left_the_window_and_the_rest_as_it_was(
    length: int, write: Callable[[Tensor], Project]
) -> None:
    case = make_case(length=length, slot_count=5, window=3, write=write)
    left = max(0, length // 3 - 1) * 3
    written = case.project(case.key, torch.arange(length)[None])[:, :, :left].expand(2, -1, -1, -1)
    key_value = torch.cat([case.key, case.value], dim=-1)
    pieces = [2, length - 2] if length > 2 else [length]
    for _, state in (in_steps(case), in_pieces(case, [length]), in_pieces(case, pieces)):
        assert_near(state.slots, written.mT @ key_value[:, :, :left], 1e-5)
        assert_near(state.weight, written.sum(2), 1e-5)
        for position in range(left, length):
            assert torch.equal(state.recent[:, :, position % 6], key_value[:, :, position])


def test_a_state_continues_text_of_different_lengths_in_each_row() -> None:
    """Rows of 0, 4, 9 and 13 tokens behind pads, then six more each."""
    case = make_case(4, length=19, window=3)
    tokens = torch.tensor([0, 4, 9, 13])
    case.mask = torch.arange(19) >= 13 - tokens[:, None]
    _, state = in_pieces(case[:13], [13])
    assert torch.equal(state.count, tokens)
    for output, after in (in_steps(case[13:], state), in_pieces(case[13:], [2, 4], state)):
        assert torch.equal(after.count, tokens + 6)
        for row in range(4):
            alone = case.row(row)
            expected = chunk_lowrank_attention(*alone.tokens, alone.settings)[0]
            assert_near(output[row], expected[0, :, -6:], 1e-5)


def test_without_gradients_a_step_is_the_same_and_makes_no_new_recent_tokens() -> None:
    case = make_case(length=17)
    with_gradients, state = in_steps(case)
    with torch.no_grad():
        without, other = in_steps(case)
        before = other.recent.data_ptr()
        last = case[16:]
        assert (
            recurrent_lowrank_attention(*last.tokens, last.settings, other)[1].recent.data_ptr()
            == before
        )
    assert torch.equal(with_gradients, without)
    for tensor, same in zip(tensors_of(state), tensors_of(other), strict=True):
        assert tensor.dtype == same.dtype


def test_with_gradients_a_step_leaves_the_state_it_was_given() -> None:
    case = make_case(length=17)
    _, state = in_steps(case[:11])
    kept = [tensor.clone() for tensor in tensors_of(state)]
    in_steps(case[11:], state)
    assert all(torch.equal(*pair) for pair in zip(tensors_of(state), kept, strict=True))


@torch.no_grad()
def test_a_copy_of_the_state_undoes_what_came_after_it() -> None:
    case = make_case(length=17)
    _, state = in_steps(case[:9])
    kept = state.map(torch.clone)
    wrong = make_case(length=8, seed=1)
    in_steps(wrong, state)  # changes the state it was given
    expected = chunk_lowrank_attention(*case.tokens, case.settings)[0]
    again = kept.map(torch.clone)
    assert_near(in_steps(case[9:], kept)[0], expected[:, :, 9:], 1e-5)
    assert_near(in_pieces(case[9:], [8], again)[0], expected[:, :, 9:], 1e-5)


def test_rows_of_a_state_can_be_chosen_and_repeated() -> None:
    case, order = make_case(3, length=17), torch.tensor([2, 0, 0, 1])
    _, state = in_steps(case[:9])
    chosen = state.map(lambda tensor: tensor[order])
    rest = case[9:]
    output = chunk_lowrank_attention(*(t[order] for t in rest.tokens), rest.settings, None, chosen)[
        0
    ]
    expected = chunk_lowrank_attention(*rest.tokens, rest.settings, None, state)[0]
    assert_near(output, expected[order], 1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_a_hundred_thousand_steps_in_bfloat16() -> None:
    """The state stays exact enough that the last tokens get what float32 gives them in one go."""
    length, window = 100_000, 8
    case = make_case(1, 1, length, 4, 3, window, dtype=torch.bfloat16)
    state, finite, outputs = case.empty_state(), True, []
    for column in range(length):
        token = case[column : column + 1]
        output, state = recurrent_lowrank_attention(*token.tokens, token.settings, state)
        finite = finite and bool(output.isfinite().all())
        outputs.append(output)
    assert finite
    assert int(state.count) == length
    assert state.slots.dtype == state.weight.dtype == torch.float32
    # Each token's weights are rounded to 8 bits, by up to 2**-9 of them.
    assert float(state.weight.sum()) == pytest.approx(length - window, rel=2**-9)

    exact = Case(*(leaf.float() for leaf in case.leaves), by_content, window, None, case.scaling)
    expected, whole = chunk_lowrank_attention(*exact.tokens, exact.settings, return_state=True)
    assert_near(torch.cat(outputs[-1000:], dim=2), expected[:, :, -1000:], 2e-2)
    torch.testing.assert_close(state.weight, whole.weight, rtol=2**-9, atol=0)
    assert_near(state.slots / state.weight[..., None], whole.slots / whole.weight[..., None], 2e-3)


class Allocations(TorchDispatchMode):
    """Numbers of 4 bytes: of the largest tensor made, and of all that lived at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.living = self.peak = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.known:
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        numbers = storage.nbytes() // 4
        self.known.add(storage)
        weakref.finalize(storage, self.free, numbers)
        self.largest = max(self.largest, numbers)
        self.living += numbers
        self.peak = max(self.peak, self.living)

    def free(self, numbers: int) -> None:
        self.living -= numbers


def long_case(length: int, window: int, padding: str = "none") -> Case:
    return make_case(1, 4, length, size=8, slot_count=32, window=window, padding=padding)


def made_in_training(case: Case) -> Allocations:
    """By the forward and the backward pass."""
    with Allocations() as allocations:
        output, _ = chunk_lowrank_attention(*case.tokens, case.settings, case.mask)
        torch.autograd.grad(output.sum(), case.leaves)
    return allocations


def kept_for_the_backward_pass(case: Case) -> list[int]:
    """The sizes, in numbers of 4 bytes, of all that the forward pass keeps alive."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = chunk_lowrank_attention(
            *case.tokens, case.settings, case.mask
        )  # kept while it lives
    assert output.requires_grad
    return list(kept.values())


@pytest.mark.parametrize("padding", ["none", "left"])
def test_no_tensor_is_made_that_grows_with_the_square_or_with_length_times_slots_times_size(
    padding: str,
) -> None:
    """The largest is a segment's scores, or what one layer of that length has anyway."""
    for length in (4096, 8192):
        largest = made_in_training(long_case(length, 32, padding)).largest
        assert largest <= SCORES_PER_SEGMENT["cpu"] + 4 * length * (2 * 8 + 32)
        assert largest < 4 * length * 32 * 8 / 3
        assert largest < 4 * length * length / 30


@pytest.mark.parametrize("padding", ["none", "left"])
def test_peak_memory_grows_in_a_straight_line(padding: str) -> None:
    """From 4,096 tokens on, where there are several segments. (Inputs are not counted.)"""
    short, middle, long = (
        made_in_training(long_case(length, 32, padding)).peak for length in (4096, 8192, 16384)
    )
    assert long - middle == pytest.approx(2 * (middle - short), rel=0.05)


@pytest.mark.parametrize(("padding", "most"), [("none", 3), ("left", 6)])
@pytest.mark.parametrize("window", [4, 64])
def test_what_is_kept_for_the_backward_pass_is_linear_and_has_no_scores(
    padding: str, most: int, window: int
) -> None:
    """Keys, values, and what the projection makes of them, whatever the window."""
    for length in (4096, 8192):
        kept = kept_for_the_backward_pass(long_case(length, window, padding))
        assert sum(kept) <= 4 * length * most * (2 * 8 + 32)
        assert max(kept) < 4 * length * 64 / 1.5
