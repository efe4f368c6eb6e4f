"""Windows: what is predicted, how often, and from how much."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumenspark.data.windows import TrainingWindows, card_windows, strided_windows
from lumenspark.errors import UserError


def stream(length: int) -> np.ndarray:
    """Ids that tell where they lie."""
    return np.arange(length, dtype=np.uint16)


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, int, int]:
    context = draw(st.integers(2, 20))
    return draw(st.integers(context + 1, 400)), context, draw(st.integers(0, 2**31))


@given(streams(), st.integers(0, 5))
def test_an_epoch_predicts_no_id_twice_and_leaves_out_less_than_a_window(
    case: tuple[int, int, int], epoch: int
) -> None:
    length, context, seed = case
    windows = TrainingWindows(stream(length), context, seed)
    batch = windows.batch(epoch * windows.windows_per_epoch, windows.windows_per_epoch)
    targets = batch[:, 1:].ravel()
    assert len(set(targets.tolist())) == len(targets)
    assert length - len(targets) < context
    assert len({tuple(window) for window in batch.tolist()}) == len(batch)


@given(streams(), st.integers(0, 300))
def test_a_window_is_a_run_of_the_ring(case: tuple[int, int, int], number: int) -> None:
    length, context, seed = case
    window = TrainingWindows(stream(length), context, seed).batch(number, 1)[0]
    assert window.tolist() == [(window[0] + i) % length for i in range(context + 1)]


@given(streams(), st.integers(0, 300), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_batches_depend_on_nothing_but_their_numbers(
    case: tuple[int, int, int], first: int, counts: list[int]
) -> None:
    whole = TrainingWindows(stream(case[0]), *case[1:]).batch(first, sum(counts))
    parts = []
    for count in counts:
        parts.append(TrainingWindows(stream(case[0]), *case[1:]).batch(first, count))
        first += count
    assert np.array_equal(whole, np.concatenate(parts))


def test_epochs_and_seeds_differ_in_phase_and_order() -> None:
    windows = TrainingWindows(stream(6401), 64, seed=0)
    one, two = (windows.batch(epoch * 100, 100) for epoch in (0, 1))
    other = TrainingWindows(stream(6401), 64, seed=1).batch(0, 100)
    for batch in (two, other):
        assert not np.array_equal(np.argsort(one[:, 0]), np.argsort(batch[:, 0]))
        assert set(one[:, 0]) != set(batch[:, 0])


def test_windows_are_int64_and_inputs_lie_one_before_targets() -> None:
    batch = TrainingWindows(stream(1000), 16, seed=3).batch(5, 7)
    assert batch.dtype == np.int64
    assert batch.shape == (7, 17)
    assert np.array_equal(batch[:, :-1][:, 1:], batch[:, 1:][:, :-1])


def test_a_corpus_smaller_than_one_window_is_named_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"train split has 64 tokens and one window needs 65"):
        TrainingWindows(stream(64), 64, seed=0)
    assert TrainingWindows(stream(65), 64, seed=0).windows_per_epoch == 1


def naive_card_windows(lengths: list[int], context: int, overlap: int) -> list[tuple[int, int]]:
    """The definition, one window at a time."""
    windows = []
    start = 0
    for length in lengths:
        stop = start + length
        begin, seen = start, start
        while seen < stop:
            end = min(begin + context, stop)
            if end - begin >= 2:
                windows.append((begin, end))
            seen = end
            begin = end - overlap
        start = stop
    return windows


@st.composite
def card_cases(draw: st.DrawFn) -> tuple[list[int], int, int]:
    context = draw(st.integers(2, 20))
    overlap = draw(st.integers(0, context - 1))
    return draw(st.lists(st.integers(1, 100), max_size=8)), context, overlap


@given(card_cases())
def test_card_windows_follow_their_definition(case: tuple[list[int], int, int]) -> None:
    lengths, context, overlap = case
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    windows = card_windows(offsets, context, overlap)
    assert [tuple(window) for window in windows.tolist()] == naive_card_windows(*case)


def test_card_windows_of_the_card() -> None:
    assert card_windows([0, 64, 129, 130, 132]).tolist() == [
        [0, 64],  # a full window and nothing new after it
        [64, 128],
        [120, 129],  # the last 8 and one new id
        [130, 132],  # the document of one id before this one has nothing to predict
    ]


@pytest.mark.parametrize(("context", "overlap"), [(8, 8), (8, 9), (8, -1), (1, 0)])
def test_card_windows_need_room_for_a_new_id(context: int, overlap: int) -> None:
    with pytest.raises(UserError, match="cannot overlap"):
        card_windows([0, 100], context, overlap)


@st.composite
def strided_cases(draw: st.DrawFn) -> tuple[int, int, int]:
    context = draw(st.integers(2, 30))
    return draw(st.integers(0, 300)), context, draw(st.integers(1, context))


@given(strided_cases())
def test_strided_windows_score_every_target_once_with_the_context_promised(
    case: tuple[int, int, int],
) -> None:
    length, context, stride = case
    width = context + (stride == context)  # all of them but the last are then read
    scored = []
    for begin, first_target, end in strided_windows(*case).tolist():
        assert 0 <= begin < first_target < end <= length
        assert end - begin <= width
        assert begin == 0 or end - begin == width
        assert begin == 0 or first_target - begin >= width - stride
        scored += range(first_target, end)
    assert scored == list(range(1, length))


@pytest.mark.parametrize("stride", [0, 65, -1])
def test_a_stride_that_leaves_no_context_is_refused(stride: int) -> None:
    with pytest.raises(UserError, match="choose it from 1 to 64"):
        strided_windows(1000, 64, stride)
