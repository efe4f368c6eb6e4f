"""Page content: plain values, independent of models.

Shapes: T tokens, L layers, H heads, P parts that write to the residual stream. Losses are in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

OVERVIEW = 256  # side of the overview map of every head
LEVELS = 255  # quantisation levels of a weight, besides zero
FEW_LEVELS = 63  # in whole maps of long texts: millions of weights, mostly noise
LONG = 1024  # tokens; longer texts are long

Guess = tuple[str, float]  # a token and its probability
Share = tuple[int, float]  # the position of a token and its share of a slot
Curve = tuple[Sequence[float], Sequence[float]]  # steps and values


@dataclass(frozen=True)
class HeadMap:
    """One head's attention, quantised: the lower triangle, row by row.

    ``overview``: weights max-pooled to n × n blocks, n = min(T, 256), block b starting at token
    b·T // n; n(n + 1) / 2 values of uint8, where level l means (l / 255)².
    ``whole``: all weights, T(T + 1) / 2 values of uint8, where level l means (l / 255)², or
    (l / 63)² beyond 1,024 tokens; None if the overview has full resolution already, or if not
    requested.
    """

    tokens: int
    overview: np.ndarray
    whole: np.ndarray | None = None


def head_map(pattern: np.ndarray, whole: bool = False) -> HeadMap:
    """Quantise the attention pattern (T, T) of one head; rows are queries.

    Levels are evenly spaced in the square root, which preserves weights as small as 1/1000: the
    error of a weight w in the overview is at most √w / 255 + 1/255². Entries above the diagonal
    are ignored. Raises ValueError unless the pattern is square with weights in [0, 1].
    """
    pattern = np.asarray(pattern, dtype=np.float32)
    if pattern.ndim != 2 or pattern.shape[0] != pattern.shape[1] or not pattern.size:
        raise ValueError(f"an attention pattern must be (T, T), not {pattern.shape}")
    tokens = len(pattern)
    seen = np.tri(tokens, dtype=bool)
    weights = pattern[seen]
    if not (weights.min() >= -1e-4 and weights.max() <= 1 + 1e-4):  # NaN fails too
        raise ValueError("attention weights must be between 0 and 1")
    blocks = min(tokens, OVERVIEW)
    if blocks == tokens:
        return HeadMap(tokens, _levels(weights, LEVELS))
    starts = np.arange(blocks) * tokens // blocks
    pooled = np.where(seen, pattern, 0)
    pooled = np.maximum.reduceat(np.maximum.reduceat(pooled, starts, axis=0), starts, axis=1)
    overview = _levels(pooled[np.tri(blocks, dtype=bool)], LEVELS)
    return HeadMap(tokens, overview, _levels(weights, whole_levels(tokens)) if whole else None)


def whole_levels(tokens: int) -> int:
    """The quantisation levels of a whole map."""
    return LEVELS if tokens <= LONG else FEW_LEVELS


def _levels(weights: np.ndarray, levels: int) -> np.ndarray:
    return np.rint(np.sqrt(weights.clip(0, 1)) * levels).astype(np.uint8)


@dataclass(frozen=True)
class TextContent:
    """One text in one model. Empty fields are left out of the page.

    title: such as ``run k3v9x2mq (lumiere-1m), checkpoint best``
    facts: the page's header: parameters, loss, perplexity …
    tokens: T strings that join to the text. A character split over several tokens belongs to the
        last of them; the others are empty.
    loss: (T,) nats, of each token given the previous ones; NaN without a prediction
    guesses: T lists: the most likely tokens after token t, most likely first
    maps: L lists of H maps
    scores: (L, H) by name. Shown on a scale from 0 to 1, except ``entropy``, which is in nats.
    lens, lens_rows: for each of the rows (``embed``, ``blocks.0.residual`` …) T top guesses
    parts, attribution: names and (P, T): each component's contribution to the logit of the token
        after token t; after the last token, of the most likely one. They sum to the logit.
    slots: for each layer and head a list of slots, each a list of its tokens with the largest
        shares; a layer without slots is an empty list
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
        _check(tokens > 0, "a page needs at least one token")
        _check(np.shape(self.loss) == (tokens,), "loss has one number per token")
        _check(len(self.guesses) == tokens, "guesses has one list per token")
        heads = {len(layer) for layer in self.maps}
        _check(len(heads) <= 1 and 0 not in heads, "all layers have the same number of maps")
        lengths = {head.tokens for layer in self.maps for head in layer}
        _check(lengths <= {tokens}, "maps cover all tokens of the text")
        _check_scores(self.scores)
        shapes = {np.shape(values) for values in self.scores.values()} if self.maps else set()
        _check(shapes <= {(len(self.maps), *heads)}, "scores have the shape of the maps")
        _check(len(self.lens) == len(self.lens_rows), "lens_rows names the rows of the lens")
        _check(all(len(row) == tokens for row in self.lens), "a row of the lens has T guesses")
        shape = (0, tokens) if self.attribution is None else self.attribution.shape
        _check(shape == (len(self.parts), tokens), "attribution is (P, T) for P parts")
        slots = (slot for layer in self.slots or [] for head in layer for slot in head)
        positions = (position for slot in slots for position, _ in slot)
        _check(all(0 <= p < tokens for p in positions), "slots contain positions of the text")


@dataclass(frozen=True)
class HeadsContent:
    """All heads of one model: their scores, and metrics from training.

    scores: (L, H) by name, as in :class:`TextContent`
    series: curves over training steps by group and name: head scores, logit-lens loss by layer,
        norms … ; the axis is logarithmic for positive values over a wide range
    """

    title: str
    facts: dict[str, str]
    scores: dict[str, np.ndarray]
    series: dict[str, dict[str, Curve]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_scores(self.scores)
        for group, curves in self.series.items():
            for name, (steps, values) in curves.items():
                _check(
                    len(steps) == len(values),
                    f"{group}, {name}: steps and values have the same length",
                )


@dataclass(frozen=True)
class CompareContent:
    """One text in two models.

    If both split the text into the same tokens, losses are compared token by token; otherwise over
    the shortest spans of whole tokens in both, in bits per byte.
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
        raise ValueError(f"invalid page content: {rule}")
