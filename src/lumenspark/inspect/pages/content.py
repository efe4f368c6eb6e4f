"""What a page shows: plain values that know nothing of models.

Shapes: T tokens, L layers, H heads, P parts that write to the residual stream. Losses are in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

OVERVIEW = 256  # the side of the map that every head has
LEVELS = 255  # that a weight has, above none
FEW_LEVELS = 63  # in a whole map of a long text: millions of weights, most of them noise
LONG = 1024  # tokens; a longer text is a long one

Guess = tuple[str, float]  # a token and its probability
Share = tuple[int, float]  # the position of a token and its share of a slot
Curve = tuple[Sequence[float], Sequence[float]]  # steps and values


@dataclass(frozen=True)
class HeadMap:
    """One head's attention, quantised: only the lower triangle, row after row.

    ``overview``: weights pooled by maximum to n × n blocks, n = min(T, 256), block b holding the
    tokens from b·T // n on; n(n + 1) / 2 numbers of uint8, level l standing for (l / 255)².
    ``whole``: every weight, T(T + 1) / 2 numbers of uint8, level l standing for (l / 255)², or for
    (l / 63)² where there are more than 1,024 tokens; None where the overview shows every weight
    already, or where it was not asked for.
    """

    tokens: int
    overview: np.ndarray
    whole: np.ndarray | None = None


def head_map(pattern: np.ndarray, whole: bool = False) -> HeadMap:
    """The attention pattern (T, T) of one head, rows being queries, made small.

    Levels are evenly spaced in the square root, so that a weight of 1/1000 is not lost: a weight w
    in the overview is off by at most √w / 255 + 1/255². What lies above the diagonal is not looked
    at. Raises ValueError for anything but a square of weights between 0 and 1.
    """
    pattern = np.asarray(pattern, dtype=np.float32)
    if pattern.ndim != 2 or pattern.shape[0] != pattern.shape[1] or not pattern.size:
        raise ValueError(f"an attention pattern is (T, T), and this one is {pattern.shape}")
    tokens = len(pattern)
    seen = np.tri(tokens, dtype=bool)
    weights = pattern[seen]
    if not (weights.min() >= -1e-4 and weights.max() <= 1 + 1e-4):  # NaN fails too
        raise ValueError("attention weights lie between 0 and 1")
    blocks = min(tokens, OVERVIEW)
    if blocks == tokens:
        return HeadMap(tokens, _levels(weights, LEVELS))
    starts = np.arange(blocks) * tokens // blocks
    pooled = np.where(seen, pattern, 0)
    pooled = np.maximum.reduceat(np.maximum.reduceat(pooled, starts, axis=0), starts, axis=1)
    overview = _levels(pooled[np.tri(blocks, dtype=bool)], LEVELS)
    return HeadMap(tokens, overview, _levels(weights, whole_levels(tokens)) if whole else None)


def whole_levels(tokens: int) -> int:
    """How fine the weights of a whole map are."""
    return LEVELS if tokens <= LONG else FEW_LEVELS


def _levels(weights: np.ndarray, levels: int) -> np.ndarray:
    return np.rint(np.sqrt(weights.clip(0, 1)) * levels).astype(np.uint8)


@dataclass(frozen=True)
class TextContent:
    """One text as one model reads it. What is empty is left out of the page.

    title: such as ``run k3v9x2mq (lumiere-1m), checkpoint best``
    facts: what stands in the page's head: parameters, loss, perplexity …
    tokens: T pieces that join to the text. A character that is cut between tokens comes whole with
        the last of them, and the others are empty.
    loss: (T,) nats, of each token given those before; NaN where nothing was predicted
    guesses: T lists: the likeliest tokens after token t, likeliest first
    maps: L lists of H maps
    scores: (L, H) by name. All are shown on a scale from 0 to 1, but ``entropy``, which is in nats.
    lens, lens_rows: for each of the rows (``embed``, ``blocks.0.residual`` …) T top guesses
    parts, attribution: names and (P, T): what each part adds to the logit of the token that came
        after token t, or after the last token to that of the likeliest one; they sum to the logit
    slots: for each layer and head a list of slots, each a list of its heaviest tokens; a layer
        without slots is an empty list
    """

    title: str
    facts: dict[str, str]
    tokens: list[str]
    loss: np.ndarray
    guesses: list[list[Guess]]
    maps: list[list[HeadMap]] = field(default_factory=list)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    lens: list[list[Guess]] = field(default_factory=list)
    lens_rows: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    attribution: np.ndarray | None = None
    slots: list[list[list[list[Share]]]] | None = None

    def __post_init__(self) -> None:
        tokens = len(self.tokens)
        _check(tokens > 0, "a page is about one token or more")
        _check(np.shape(self.loss) == (tokens,), "loss is one number for each token")
        _check(len(self.guesses) == tokens, "guesses are one list for each token")
        heads = {len(layer) for layer in self.maps}
        _check(len(heads) <= 1 and 0 not in heads, "each layer has as many maps as any other")
        lengths = {head.tokens for layer in self.maps for head in layer}
        _check(lengths <= {tokens}, "maps are of as many tokens as the text has")
        _check_scores(self.scores)
        shapes = {np.shape(values) for values in self.scores.values()} if self.maps else set()
        _check(shapes <= {(len(self.maps), *heads)}, "there are as many scores as maps")
        _check(len(self.lens) == len(self.lens_rows), "lens_rows names the rows of the lens")
        _check(all(len(row) == tokens for row in self.lens), "a row of the lens has T guesses")
        shape = (0, tokens) if self.attribution is None else self.attribution.shape
        _check(shape == (len(self.parts), tokens), "attribution is (P, T), P being the parts")
        slots = (slot for layer in self.slots or [] for head in layer for slot in head)
        positions = (position for slot in slots for position, _ in slot)
        _check(all(0 <= p < tokens for p in positions), "slots hold positions of the text")


@dataclass(frozen=True)
class HeadsContent:
    """All heads of one model: their scores now, and what training recorded.

    scores: (L, H) by name, as in :class:`TextContent`
    series: curves over training steps by group and name: head scores, the lens's loss by layer,
        norms … ; where every value is positive and they span a lot, the axis is logarithmic
    """

    title: str
    facts: dict[str, str]
    scores: dict[str, np.ndarray]
    series: dict[str, dict[str, Curve]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_scores(self.scores)
        for group, curves in self.series.items():
            for name, (steps, values) in curves.items():
                _check(len(steps) == len(values), f"{group}, {name}: as many steps as values")


@dataclass(frozen=True)
class CompareContent:
    """One text as two models read it.

    Where both cut the text into the same tokens, losses are compared token by token; else over the
    shortest stretches that are whole tokens for both, in bits per byte.
    """

    title: str
    left: TextContent
    right: TextContent


def _check_scores(scores: dict[str, np.ndarray]) -> None:
    shapes = {np.shape(values) for values in scores.values()}
    _check(all(len(shape) == 2 for shape in shapes), "each score is (L, H)")
    _check(len(shapes) <= 1, "all scores have the same shape")


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{rule}, and here it is otherwise")
