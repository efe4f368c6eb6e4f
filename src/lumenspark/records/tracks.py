"""The tracks: what is measured, with which recipe, and how results are compared."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

CARD_LINE = 4.3471  # nats per token: ln of the original card's test perplexity, 77.2527
LEAST_TOLERANCE = 0.01  # nats per token
MIN_MFU_RATIO = 0.85

Figures = dict[str, list[float]]
"""Results by name, one value per seed. Losses in nats per token, times in seconds."""


@dataclass(frozen=True)
class Column:
    """A result of a track and its format."""

    key: str
    name: str
    show: Callable[[float], str]

    def with_spread(self, values: list[float]) -> str:
        """The mean, with the standard deviation for several seeds."""
        mean = self.show(statistics.mean(values))
        return f"{mean} ± {self.show(statistics.stdev(values))}" if len(values) > 1 else mean


@dataclass(frozen=True)
class Track:
    """A track. ``limits`` are upper bounds for every seed."""

    name: str
    title: str
    about: str
    recipe: str
    data: str  # default corpus
    columns: tuple[Column, ...]
    limits: dict[str, float]


@dataclass(frozen=True)
class Check:
    """A rule with the measured value, and whether it holds."""

    rule: str
    holds: bool


def duration(seconds: float) -> str:
    """``9 min 25 s``, ``3 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _four_digits(value: float) -> str:
    return f"{value:.4f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


TO_CHECKPOINT = Column("seconds_to_checkpoint", "time to the checkpoint", duration)
SECONDS = Column("seconds", "whole command", duration)
TEST_LOSS = Column("test_loss", "test loss (card)", _four_digits)
BITS_PER_BYTE = Column("bits_per_byte", "bits per byte (strided)", _four_digits)

TRACKS = {
    "fast": Track(
        name="fast",
        title="Fastest to 4.3471",
        about=(
            "Wall time from the start of the command to the saved checkpoint, for a test loss on "
            "WikiText-2 of at most 4.3471 nats per token by the card's protocol (perplexity "
            "77.25, the result of the original card). The time includes the start of Python, the "
            "tokenizer, compiling and validation, with cold caches. The record is reproduced if "
            "every seed reaches 4.3471 or less and saves its checkpoint within 10 minutes."
        ),
        recipe="lumiere-1m-fast",
        data="wikitext-2",
        columns=(TO_CHECKPOINT, TEST_LOSS, BITS_PER_BYTE, SECONDS),
        limits={TEST_LOSS.key: CARD_LINE, TO_CHECKPOINT.key: 10 * 60},
    ),
    "best": Track(
        name="best",
        title="Lowest test loss within 60 minutes",
        about=(
            "The lowest test loss on WikiText-2, by the card's protocol, of a command that ends "
            "within 60 minutes. The time includes the teachers, rebuilding the caches and both "
            "evaluations. The record is reproduced if the command ends in time and the mean loss "
            "exceeds the recorded mean by at most two standard deviations or 0.01, whichever is "
            "more (0.01 if only one seed is recorded)."
        ),
        recipe="lumiere-1m-best",
        data="wikitext-2",
        columns=(TEST_LOSS, BITS_PER_BYTE, TO_CHECKPOINT, SECONDS),
        limits={SECONDS.key: 60 * 60},
    ),
    "speed": Track(
        name="speed",
        title="Training tokens per second",
        about=(
            "Training throughput in steady state, and model FLOPs utilisation (MFU): FLOPs of the "
            "model's matrix products (formula in `training/mfu.py`) relative to the FLOP/s of a "
            "2048 x 2048 matrix product in the same precision. The record is "
            "reproduced if MFU is at least 85% of the recorded MFU; MFU is comparable across "
            "machines where tokens/s are not."
        ),
        recipe="lumiere-1m",
        data="python-docs",
        columns=(
            Column("tokens_per_second", "tokens/s", _count),
            Column("mfu", "MFU", _percent),
            Column("peak_gflops", "peak, GFLOP/s", _count),
        ),
        limits={},
    ),
}


def check_limits(track: Track, measured: Figures) -> list[Check]:
    """Checks of the track's limits, for every seed."""
    names = {column.key: column for column in track.columns}
    checks = []
    for key, limit in track.limits.items():
        column, highest = names[key], max(measured[key])
        rule = f"{column.name} at most {column.show(limit)}: {column.show(highest)}"
        checks.append(Check(rule, highest <= limit))
    return checks


def check_against(track: Track, measured: Figures, recorded: Figures) -> list[Check]:
    """Checks of measured against recorded results."""
    if track.name == "best":
        loss, before = statistics.mean(measured["test_loss"]), recorded["test_loss"]
        limit = statistics.mean(before) + loss_tolerance(before)
        rule = f"test loss at most {limit:.4f}, the recorded mean plus tolerance: {loss:.4f}"
        return [Check(rule, loss <= limit)]
    if track.name == "speed":
        mfu = statistics.mean(measured["mfu"])
        least = MIN_MFU_RATIO * statistics.mean(recorded["mfu"])
        rule = f"MFU at least {least:.1%}, 85% of the recorded one: {mfu:.1%}"
        return [Check(rule, mfu >= least)]
    return []


def loss_tolerance(losses: list[float]) -> float:
    """Two standard deviations over seeds, at least 0.01."""
    if len(losses) == 1:
        return LEAST_TOLERANCE
    return max(LEAST_TOLERANCE, 2 * statistics.stdev(losses))
