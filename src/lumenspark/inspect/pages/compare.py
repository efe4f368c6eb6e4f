"""Two models' losses on one text, also across different tokenizers."""

import math
from dataclasses import dataclass

import numpy as np

from lumenspark.inspect.pages.content import CompareContent, TextContent


@dataclass(frozen=True)
class Comparison:
    """Losses over S spans of a text, each a sequence of whole tokens in both models.

    ranges: (S, 4): first token and end (exclusive) on the left, then on the right
    left, right: (S,) in ``unit``; NaN without a prediction
    overall: both losses over all spans that both models predicted, in ``unit``; NaN without any
    unit: ``nats per token`` if both have the same tokens, else ``bits per byte``
    """

    ranges: np.ndarray
    left: np.ndarray
    right: np.ndarray
    overall: tuple[float, float]
    unit: str


def compare(content: CompareContent) -> Comparison:
    """Compare both sides. Raises ValueError if their texts differ."""
    left, right = content.left, content.right
    same = left.tokens == right.tokens
    if same:
        starts = np.arange(len(left.tokens))
        ranges = np.stack([starts, starts + 1, starts, starts + 1], axis=1)
        sizes, unit = np.ones(len(ranges)), "nats per token"
    else:
        ranges = _common_spans(left, right)
        texts = ("".join(left.tokens[start:end]) for start, end, *_ in ranges)
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        unit = "bits per byte"
    scale = 1.0 if same else 1 / math.log(2)
    totals = [
        np.array([loss[start:end].sum() for start, end in columns]) * scale
        for loss, columns in ((left.loss, ranges[:, :2]), (right.loss, ranges[:, 2:]))
    ]
    known = np.isfinite(totals[0]) & np.isfinite(totals[1])
    count = sizes[known].sum() or math.nan
    overall = (float(totals[0][known].sum() / count), float(totals[1][known].sum() / count))
    return Comparison(ranges, totals[0] / sizes, totals[1] / sizes, overall, unit)


def _common_spans(left: TextContent, right: TextContent) -> np.ndarray:
    """(S, 4): the text split wherever a token ends on both sides."""
    first_left, first_right = _where_text_starts(left, right)
    ends_left = np.cumsum([len(token) for token in left.tokens[first_left:]])
    ends_right = np.cumsum([len(token) for token in right.tokens[first_right:]])
    common = np.intersect1d(ends_left, ends_right)
    common = common[common > 0]
    columns = []
    for first, ends in ((first_left, ends_left), (first_right, ends_right)):
        stops = first + np.searchsorted(ends, common) + 1
        stops[-1] = first + len(ends)
        columns += [np.concatenate([[first], stops[:-1]]), stops]
    return np.stack(columns, axis=1)


def _where_text_starts(left: TextContent, right: TextContent) -> tuple[int, int]:
    """The first token of the text itself: an unpredicted one may only mark its beginning."""
    for first_left in range(1 + bool(np.isnan(left.loss[0]))):
        for first_right in range(1 + bool(np.isnan(right.loss[0]))):
            text = "".join(left.tokens[first_left:])
            if text and text == "".join(right.tokens[first_right:]):
                return first_left, first_right
    raise ValueError("the tokens of both sides must join to the same text")
