"""Page content, without a browser."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from page_contents import attention, text_content

from lumenspark.inspect.pages import CompareContent, HeadsContent, head_map, render_text_page
from lumenspark.inspect.pages.compare import compare


def lower(values: np.ndarray) -> np.ndarray:
    return values[np.tri(len(values), dtype=bool)]


def test_short_map_keeps_every_weight() -> None:
    pattern = attention(200)
    made = head_map(pattern, whole=True)
    weights = lower(pattern)
    shown = (made.overview / 255) ** 2
    assert made.whole is None  # there is nothing that the overview does not show
    assert (np.abs(shown - weights) <= np.sqrt(weights) / 255 + 1 / 255**2).all()


@pytest.mark.parametrize("tokens", [256, 257, 300, 1000])
def test_long_map_is_pooled_by_maximum(tokens: int) -> None:
    pattern = attention(tokens, sharpness=4)
    made = head_map(pattern)
    shown = np.zeros((256, 256))
    shown[np.tri(256, dtype=bool)] = (made.overview / 255) ** 2
    starts = [b * tokens // 256 for b in range(257)]
    for q, k in [(0, 0), (1, 0), (128, 127), (200, 3), (255, 0), (255, 255)]:
        block = pattern[starts[q] : starts[q + 1], starts[k] : starts[k + 1]]
        largest = block.max()
        assert shown[q, k] == pytest.approx(largest, abs=math.sqrt(largest) / 255 + 1 / 255**2)


@pytest.mark.parametrize(("tokens", "levels"), [(300, 255), (1025, 63)])
def test_whole_map_of_a_long_text(tokens: int, levels: int) -> None:
    pattern = attention(tokens, sharpness=4)
    assert head_map(pattern).whole is None
    shown = (head_map(pattern, whole=True).whole / levels) ** 2
    weights = lower(pattern)
    assert (np.abs(shown - weights) <= np.sqrt(weights) / levels + 1 / levels**2).all()


@pytest.mark.parametrize(
    "pattern",
    [np.zeros((3, 4)), np.zeros((0, 0)), np.full((2, 2), 1.5), np.full((2, 2), np.nan)],
    ids=["not square", "empty", "too large", "not a number"],
)
def test_what_is_no_pattern_is_refused(pattern: np.ndarray) -> None:
    with pytest.raises(ValueError, match="attention"):
        head_map(pattern)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": []},
        {"loss": np.zeros(3)},
        {"guesses": []},
        {"maps": [[head_map(attention(5))]]},
        {"maps": [[head_map(attention(12))], []]},
        {"scores": {"a": np.zeros((2, 3)), "b": np.zeros((3, 2))}},
        {"scores": {"a": np.zeros((2, 4))}},
        {"lens": []},
        {"attribution": np.zeros((2, 12))},
        {"slots": [[[[(12, 0.5)]]]]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_that_do_not_fit_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="invalid page content"):
        replace(text_content(), **changes)


def test_curves_have_a_value_for_each_step() -> None:
    with pytest.raises(ValueError, match="steps and values have the same length"):
        HeadsContent("", {}, {}, {"loss": {"training": ([1, 2], [0.5])}})


def test_same_tokens_are_compared_one_by_one() -> None:
    left, right = text_content(), text_content(seed=1)
    result = compare(CompareContent("", left, right))
    assert result.unit == "nats per token"
    assert result.ranges.tolist() == [[i, i + 1, i, i + 1] for i in range(12)]
    np.testing.assert_allclose(result.right - result.left, right.loss - left.loss)
    assert result.overall == pytest.approx((left.loss[1:].mean(), right.loss[1:].mean()))


def of_tokens(tokens: list[str], loss: list[float]) -> object:
    """Only tokens and losses."""
    empty: list = []
    return text_content(
        tokens=tokens, loss=np.array(loss), guesses=[[("a", 1.0)]] * len(tokens), maps=empty,
        scores={}, lens=empty, lens_rows=empty, parts=empty, attribution=None,
    )  # fmt: skip


def test_other_tokens_are_compared_where_both_end() -> None:
    """«né it» as [start] n|é| |it on the left and né| it on the right, which has no start token."""
    bit = math.log(2)
    left = of_tokens(["<s>", "n", "é", " ", "it"], [math.nan, bit, 2 * bit, 3 * bit, 4 * bit])
    right = of_tokens(["né", " it"], [math.nan, 6 * bit])
    result = compare(CompareContent("", left, right))
    assert result.unit == "bits per byte"
    assert result.ranges.tolist() == [[1, 3, 0, 1], [3, 5, 1, 2]]
    np.testing.assert_allclose(result.left, [3 / 3, 7 / 3])  # é has two bytes
    np.testing.assert_allclose(result.right, [math.nan, 6 / 3])
    assert result.overall == pytest.approx((7 / 3, 6 / 3))  # where both predicted


def test_a_character_that_is_cut_between_tokens() -> None:
    """Its first pieces are empty and belong to it, not to the previous token."""
    left = of_tokens(["a", "", "☃", "b"], [1.0, 2.0, 3.0, 4.0])
    right = of_tokens(["a", "☃", "b"], [1.0, 5.0, 4.0])
    result = compare(CompareContent("", left, right))
    assert result.ranges.tolist() == [[0, 1, 0, 1], [1, 3, 1, 2], [3, 4, 2, 3]]
    np.testing.assert_allclose(result.left, result.right)


def test_two_texts_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same text"):
        compare(CompareContent("", of_tokens(["a"], [1.0]), of_tokens(["b"], [1.0])))


def test_page_names_no_address() -> None:
    """Except XML namespaces, which are never fetched."""
    page = render_text_page(text_content())
    assert set(re.findall(r"https?://[^\"'\s]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
