"""Limits of the generation settings, for ``generate`` and the command line."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

SAMPLING_ARGUMENTS = ("temperature", "top_k", "top_p", "min_p", "typical_p")
MOST_NEW_TOKENS = 10_000_000  # more would take too long: the time per token grows with the text
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-5, 1e5  # logits divided by these fit float32
MOST_PENALTY = 1e9

LIMITS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("max_new_tokens", "1 or more", lambda value: value >= 1),
    ("max_new_tokens", f"at most {MOST_NEW_TOKENS}", lambda value: value <= MOST_NEW_TOKENS),
    ("max_length", f"at most {MOST_NEW_TOKENS}", lambda value: value <= MOST_NEW_TOKENS),
    ("temperature", "0 or more", lambda value: value >= 0),
    (
        "temperature",
        f"0, or from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE:.0f}",
        lambda value: value == 0 or LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE,
    ),
    ("top_k", "0 or more", lambda value: value >= 0),
    ("top_p", "above 0 and at most 1", lambda value: 0 < value <= 1),
    ("repetition_penalty", "above 0", lambda value: value > 0),
    (
        "repetition_penalty",
        f"from {1 / MOST_PENALTY} to {MOST_PENALTY:.0f}",
        lambda value: 1 / MOST_PENALTY <= value <= MOST_PENALTY,
    ),
)
WHOLE_NUMBERS = ("max_new_tokens", "max_length", "top_k")


def wanted(name: str, value: object) -> str | None:
    """The requirement that ``value`` violates for the setting ``name``, or None."""
    kind, what = (Integral, "a whole number") if name in WHOLE_NUMBERS else (Real, "a number")
    if not isinstance(value, kind) or isinstance(value, bool):
        return what
    broken = (rule for key, rule, holds in LIMITS if key == name and not holds(value))
    return next(broken, None)


def check_settings(config: Any, layers: int) -> None:
    """Check a ``GenerationConfig`` of transformers, and convert integers to float where needed.

    Raises ValueError for a setting that is out of range or not a number; transformers would fail
    obscurely, or return no text.
    """
    for name in dict.fromkeys(name for name, _, _ in LIMITS):
        value = getattr(config, name, None)
        if value is None:
            continue
        if must := wanted(name, value):
            raise ValueError(f"{name} is {_short(value)}: it must be {must}")
        if name not in WHOLE_NUMBERS:
            setattr(config, name, float(value))  # transformers rejects 1 for 1.0
    for name, value in config.to_dict().items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name} is nan: it must be a number")
    depth = config.assistant_early_exit
    if depth is not None and not (isinstance(depth, int) and 1 <= depth <= layers):
        raise ValueError(
            f"assistant_early_exit is {_short(depth)}: it must be from 1 to {layers}, the layers "
            "of this model"
        )


def _short(value: object) -> str:
    """``value`` for a message; Python refuses to print integers of thousands of digits."""
    try:
        return repr(value)[:80]
    except ValueError:
        return "a number too long to print"
