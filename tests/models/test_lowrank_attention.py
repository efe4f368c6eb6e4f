"""Causal low-rank attention: its three forms against the definition, and what none may ever do."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_lowrank import (
    FORMS,
    PADDINGS,
    Case,
    assert_near,
    by_chunk,
    by_content,
    by_position,
    cases,
    gradients,
    in_pieces,
    in_steps,
    make_case,
    plain_attention,
)
from torch import Tensor
from torch.nn import functional

from lumenspark.models.lowrank_attention_blocks import block_attention
from lumenspark.models.lowrank_attention_chunk import chunk_lowrank_attention
from lumenspark.models.lowrank_attention_map import lowrank_attention_map
from lumenspark.models.lowrank_attention_slots import EMPTY, LowRankSettings, Project, slot_means

Form = Callable[[Case], Tensor]

# Relative to the largest number. bfloat16 keeps 8 bits: it rounds by up to 2e-3, and several times.
FLOAT32, BFLOAT16 = 1e-5, 4e-2

# The same cases on every machine and in every run.
repeatable = settings(derandomize=True, deadline=None, max_examples=60)


def assert_as_defined(form: Form, case: Case, tolerance: float) -> None:
    """In value and in every gradient; the definition is computed in float64."""
    exact = case.doubled()
    output, expected = form(case), plain_attention(*exact.tokens, exact.settings, exact.mask)[0]
    assert output.dtype == case.query.dtype
    assert_near(output, expected, tolerance)
    assert_same_gradients(output, case, expected, exact, tolerance)


def assert_same_gradients(
    output: Tensor, case: Case, expected: Tensor, exact: Case, tolerance: float
) -> None:
    pairs = zip(gradients(output, case.leaves), gradients(expected, exact.leaves), strict=True)
    for gradient, wanted in pairs:
        assert_near(gradient, wanted, tolerance)


@pytest.mark.parametrize("form", FORMS)
@repeatable
@given(case=cases())
def test_every_form_is_the_definition_in_value_and_gradient(form: Form, case: Case) -> None:
    assert_as_defined(form, case, FLOAT32)


@pytest.mark.parametrize("form", FORMS)
@settings(repeatable, max_examples=25)
@given(case=cases(torch.bfloat16))
def test_every_form_is_the_definition_in_bfloat16(form: Form, case: Case) -> None:
    assert_as_defined(form, case, BFLOAT16)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_length_from_one_token_to_seven_blocks(form: Form, padding: str) -> None:
    for length in range(1, 22):
        case = make_case(length=length, window=3, slot_count=(length + 1) // 2, padding=padding)
        assert_as_defined(form, case, FLOAT32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slot_count", [0, 1, 29])
@pytest.mark.parametrize("write", [by_content, by_position])
def test_seven_blocks_and_one_token_with_padding_of_every_kind(
    form: Form, slot_count: int, write: Callable[[Tensor], Project]
) -> None:
    for padding in PADDINGS:
        case = make_case(length=29, window=4, slot_count=slot_count, write=write, padding=padding)
        assert_as_defined(form, case, FLOAT32)


@repeatable
@given(case=cases(), data=st.data())
def test_read_in_any_pieces_and_steps_the_output_and_the_state_are_the_same(
    case: Case, data: st.DataObject
) -> None:
    output, whole = chunk_lowrank_attention(
        *case.tokens, case.settings, case.mask, return_state=True
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, case.query.shape[2]), max_size=4)))
    state, outputs = case.empty_state(), []
    for piece, (begin, end) in enumerate(zip([0, *cuts], [*cuts, None], strict=True)):
        part = case[begin:end]
        if piece % 2 or part.query.shape[2] == 0:
            piece_output, state = in_steps(part, state)
        else:
            piece_output, state = chunk_lowrank_attention(
                *part.tokens, part.settings, part.mask, state, True
            )
        outputs.append(piece_output)
    assert_near(torch.cat(outputs, dim=2), output, FLOAT32)
    assert torch.equal(state.count, whole.count)
    assert_near(state.slots, whole.slots, FLOAT32)
    assert_near(state.weight, whole.weight, FLOAT32)


@pytest.mark.parametrize("segment", [1, 2, 3, 6, 100, None])
def test_the_length_of_the_segments_changes_nothing(segment: int | None) -> None:
    """Six blocks of three tokens, laid out by hand."""

    def in_blocks(case: Case) -> Tensor:
        key_value = functional.pad(torch.cat([case.key, case.value], -1), (0, 0, 3, 0))
        written = case.project(case.key[:, :, :-3], torch.arange(15)[None])
        return block_attention(
            case.query.reshape(4, 6, 3, 4),
            key_value.reshape(4, 7, 3, 8),
            functional.pad(written, (0, 0, 3, 0)).reshape(4, 6, 3, 5),
            torch.zeros(4, 5, 8),
            torch.zeros(4, 5),
            torch.ones(4, dtype=torch.bool),
            case.scaling,
            segment,
        ).view(case.query.shape)

    assert_as_defined(in_blocks, make_case(length=18, window=3, slot_count=5), FLOAT32)


@pytest.mark.parametrize("segment", [1, 2, 4])
def test_the_length_of_the_segments_changes_nothing_after_a_state(segment: int) -> None:
    noise = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 3, 4), (2, 6, 3, 8), (2, 5, 3, 4), (2, 4, 8), (2, 4)]
    leaves = [torch.rand(shape, generator=noise).requires_grad_() for shape in shapes]
    first = torch.tensor([True, False])
    expected = block_attention(*leaves, first, 0.5, segment=5)
    output = block_attention(*leaves, first, 0.5, segment=segment)
    assert_near(output, expected, FLOAT32)
    pairs = zip(gradients(output, leaves), gradients(expected, leaves), strict=True)
    for gradient, wanted in pairs:
        assert_near(gradient, wanted, FLOAT32)


@pytest.mark.parametrize("write", [by_content, by_position])
@pytest.mark.parametrize("cut", [1, 4, 5, 8, 11, 12])
def test_the_gradient_reaches_through_the_state(
    cut: int, write: Callable[[Tensor], Project]
) -> None:
    """The loss is on what comes after the cut only."""
    case = make_case(length=17, window=2, write=write, padding="anywhere")
    case.mask[0] = True
    of_query, of_key, *_ = gradients(by_chunk(case)[:, :, cut:], case.leaves)
    assert torch.count_nonzero(of_key[:, :, :cut]) > 0
    assert torch.count_nonzero(of_query[:, :, :cut]) == 0
    for output, _ in (in_pieces(case, [cut, 17 - cut]), in_pieces(case, [1] * 17), in_steps(case)):
        expected = by_chunk(case)[:, :, cut:]
        assert_same_gradients(output[:, :, cut:], case, expected, case, FLOAT32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("write", [by_content, by_position])
def test_no_output_depends_on_a_later_token(
    form: Form, padding: str, write: Callable[[Tensor], Project]
) -> None:
    case = make_case(length=11, window=2, write=write, padding=padding, seed=3)
    output = form(case)
    for column in range(11):
        of_one = output[:, :, column].square().sum()
        for gradient in torch.autograd.grad(of_one, case.tokens, retain_graph=True):
            assert torch.count_nonzero(gradient[:, :, column + 1 :]) == 0


@pytest.mark.parametrize("form", FORMS)
def test_every_output_depends_on_every_earlier_token(form: Form) -> None:
    """Directly or through a slot."""
    case = make_case(length=11, window=2)
    output = form(case)
    for column in range(11):
        of_one = output[:, :, column].sum()
        (gradient,) = torch.autograd.grad(of_one, case.value, retain_graph=True)
        assert (gradient[:, :, : column + 1].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", ["left", "right", "anywhere"])
@pytest.mark.parametrize("write", [by_content, by_position])
def test_padding_changes_nothing_and_gets_zeros(
    form: Form, padding: str, write: Callable[[Tensor], Project]
) -> None:
    """Blocks are counted in a row's own text, whatever lies before or between its tokens."""
    case = make_case(3, length=23, window=3, write=write, padding=padding, seed=2)
    with torch.no_grad():
        for tensor in case.tokens:
            tensor.masked_fill_(~case.mask[:, None, :, None], 1e4)
    output = form(case)
    given = gradients(output, list(case.tokens))
    for row, real in enumerate(case.mask):
        for tensor in (output, *given):
            assert torch.count_nonzero(tensor[row][:, ~real]) == 0
        if real.any():
            expected = by_chunk(case.row(row))
            assert_near(output[row][:, real], expected[0], 1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", ["left", "right", "anywhere"])
@torch.no_grad()
def test_whatever_is_at_a_pad_is_never_read(form: Form, padding: str) -> None:
    case = make_case(3, length=23, window=3, padding=padding, seed=2)
    expected = form(case)
    for tensor in case.tokens:
        tensor.masked_fill_(~case.mask[:, None, :, None], math.nan)
    assert_near(form(case), expected, 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_first_two_blocks_of_a_rows_own_text_are_read_exactly(form: Form) -> None:
    """Six tokens behind five pads; the seventh is the first that reads a slot."""
    case = make_case(1, length=12, window=3, slot_count=1)
    case.mask = torch.arange(12)[None] >= 5
    own = (tensor[:, :, 5:] for tensor in case.tokens)
    dense = functional.scaled_dot_product_attention(*own, is_causal=True)
    output = form(case)[:, :, 5:]
    assert_near(output[:, :, :6], dense[:, :, :6], 1e-6)
    assert ((output - dense)[:, :, 6].abs().amax(-1) > 1e-3).all()


def as_given(write: Tensor) -> Project:
    """Each position is written as ``write`` (H, n, K) says."""
    return lambda key, positions: write[:, positions].transpose(0, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("length", "window"), [(1, 1), (7, 1), (12, 3), (23, 4)])
@pytest.mark.parametrize("spare", [0, 3])
def test_with_one_token_to_a_slot_it_is_dense_attention(
    form: Form, length: int, window: int, spare: int
) -> None:
    case = make_case(length=length, window=window, write=as_given)
    case.parameter = torch.eye(length, length + spare).expand(2, -1, -1)
    output, tokens = form(case), list(case.tokens)
    dense = functional.scaled_dot_product_attention(*tokens, is_causal=True)
    assert_near(output, dense, 1e-6)
    pairs = zip(gradients(output, tokens), gradients(dense, tokens), strict=True)
    for gradient, wanted in pairs:
        assert_near(gradient, wanted, FLOAT32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("write", [by_content, by_position])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_slot_to_which_nothing_is_written_has_no_weight(
    form: Form, write: Callable[[Tensor], Project], place: int
) -> None:
    case = make_case(length=13, window=2, write=write, padding="anywhere")

    def with_empty_slot(parameter: Tensor) -> Project:
        def project(key: Tensor, positions: Tensor) -> Tensor:
            written = write(parameter)(key, positions)
            nothing = torch.zeros_like(written[..., :1])
            return torch.cat([written[..., :place], nothing, written[..., place:]], dim=-1)

        return project

    output, expected = form(replace(case, write=with_empty_slot)), form(case)
    assert_near(output, expected, 1e-6)
    assert_same_gradients(output, case, expected, case, 1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 1e-45, 1e-38, EMPTY / 10, EMPTY / 4, EMPTY, 1e-18])
def test_a_slot_that_gets_next_to_nothing_counts_for_next_to_nothing(
    form: Form, share: float
) -> None:
    """Two slots get ``share`` of each token, and the third gets the rest."""
    case = make_case(length=13, window=2)
    offset = math.log(share) if share else -math.inf

    def barely(parameter: Tensor) -> Project:
        offsets = torch.tensor([offset, 0.0, offset])
        # Divided, so that no key makes up for the offsets.
        return lambda key, positions: (key @ parameter / 100 + offsets).softmax(-1)

    output = form(replace(case, write=barely))
    expected = form(replace(case, parameter=case.parameter[..., :1]))
    assert_near(output, expected, 1e-6)
    given, wanted = gradients(output, case.leaves), gradients(expected, list(case.tokens))
    for gradient, want in zip(given, [*wanted, torch.zeros_like(case.parameter)], strict=True):
        assert_near(gradient, want, 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_slot_that_got_next_to_nothing_is_found_by_a_query_that_looks_for_it(form: Form) -> None:
    """The first token's key is in the last query's direction, and alone in the second slot."""
    case = make_case(length=12, window=2, write=as_given)
    case.parameter = torch.tensor([1.0, 0.0]).repeat(2, 12, 1)
    case.parameter[:, 0, 1] = 1e-15
    case.parameter.requires_grad_()
    with torch.no_grad():
        last = case.query[:, :, -1]
        case.key[:, :, 0] = last * 45 / (case.scaling * last.square().sum(-1, keepdim=True))
    assert_as_defined(form, case, FLOAT32)


def test_what_an_empty_slot_holds() -> None:
    weight = torch.tensor([0.0, 1e-45, EMPTY / 2, 2.0], requires_grad=True)
    sums = torch.full((4, 3), 5.0, requires_grad=True)
    means, log_weight = slot_means(sums, weight)
    assert torch.equal(means, torch.tensor([0.0, 0.0, 0.0, 2.5])[:, None].expand(4, 3))
    assert torch.equal(log_weight, torch.tensor([-math.inf, -math.inf, -math.inf, math.log(2)]))
    (means.sum() + log_weight.exp().sum()).backward()
    assert torch.equal(sums.grad, torch.tensor([0.0, 0.0, 0.0, 0.5])[:, None].expand(4, 3))
    torch.testing.assert_close(weight.grad, torch.tensor([0.0, 0.0, 0.0, 1 - 15 / 4]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_do_not_overflow(form: Form, padding: str, dtype: torch.dtype) -> None:
    """Keys a thousand times too large: every softmax is all but a choice of one."""
    case = make_case(length=15, window=2, padding=padding, dtype=dtype)
    with torch.no_grad():
        case.key.mul_(1e3)
    output = form(case)
    assert output.isfinite().all()
    assert output.abs().max() <= case.value.abs().max() * 1.01  # it is a mean of values
    for gradient in gradients(output, case.leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_pads_alone_give_zeros_and_no_gradient(form: Form, dtype: torch.dtype) -> None:
    case = make_case(3, length=9, dtype=dtype)
    case.mask = torch.tensor([[False] * 9, [True] * 9, [False] * 9])
    output = form(case)
    *given, of_projection = gradients(output, case.leaves)
    for tensor in (output, *given):
        assert torch.count_nonzero(tensor[[0, 2]]) == 0
        assert torch.count_nonzero(tensor[1]) > 0
        assert tensor.isfinite().all()
    assert of_projection.isfinite().all()


@repeatable
@given(case=cases())
def test_the_map_says_what_each_query_draws_from_each_token(case: Case) -> None:
    query, key, value = case.tokens
    attended = lowrank_attention_map(query, key, case.settings, case.mask)
    exact = case.doubled()
    output, expected = plain_attention(*exact.tokens, exact.settings, exact.mask)
    assert_near(attended, expected, FLOAT32)
    assert_near(attended @ value, output, FLOAT32)
    assert_same_gradients(attended @ value, case, output, exact, FLOAT32)

    real = torch.ones(query.shape[0], query.shape[2]) if case.mask is None else case.mask.float()
    assert_near(attended.sum(-1), real[:, None].expand(attended.shape[:3]), 1e-6)
    assert (attended >= 0).all()
    assert torch.equal(attended, attended.tril())
    assert torch.count_nonzero(attended * (1 - real)[:, None, None, :]) == 0


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_map_in_bfloat16(padding: str) -> None:
    case = make_case(length=23, window=3, padding=padding, dtype=torch.bfloat16)
    attended = lowrank_attention_map(case.query, case.key, case.settings, case.mask)
    assert attended.dtype == torch.bfloat16
    assert_near(attended @ case.value, by_chunk(case), BFLOAT16)


def test_the_map_of_a_slot_to_which_nothing_is_written() -> None:
    case = make_case(length=13, window=2, write=as_given)
    case.parameter = torch.tensor([0.0, 1.0]).repeat(2, 13, 1)
    attended = lowrank_attention_map(case.query, case.key, case.settings)
    case.parameter = torch.ones(2, 13, 1)
    assert_near(attended, lowrank_attention_map(case.query, case.key, case.settings), 1e-6)
    for gradient in gradients(attended, [case.query, case.key]):
        assert gradient.isfinite().all()


def test_autocast_rounds_no_sum() -> None:
    """In bfloat16 a sum over many blocks would stand still; the slots are summed in float32."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 600, 8).bfloat16() for _ in range(3))
    write = torch.randn(2, 8, 4)

    def project(key: Tensor, positions: Tensor) -> Tensor:
        return (key @ write.to(key.dtype)).softmax(-1, dtype=torch.float32)

    low_rank = LowRankSettings(project, window=2, scaling=0.35)
    plain, _ = chunk_lowrank_attention(query, key, value, low_rank)
    with torch.autocast("cpu", torch.bfloat16):
        automatic, _ = chunk_lowrank_attention(query, key, value, low_rank)
        _, state = chunk_lowrank_attention(query, key, value, low_rank, return_state=True)
    assert torch.equal(automatic, plain)
    assert state is not None
    assert state.slots.dtype == torch.float32
