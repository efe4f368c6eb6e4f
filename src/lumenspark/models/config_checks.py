"""Validation of config values, which can come from untrusted files."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError

Config = TypeVar("Config", bound=type)

LONGEST_QUOTE = 80  # characters of a value
MOST = 2**53  # the largest integer that every JSON reader represents exactly


def checked(config: Config) -> Config:
    """``strict`` of huggingface_hub, with ValueErrors that quote at most 80 characters."""
    strict_config: Any = strict(config)
    assign = strict_config.__setattr__

    def set_checked(self: Any, name: str, value: Any) -> None:
        field = self.__dataclass_fields__.get(name)
        if field is not None and field.type is float and type(value) is int and abs(value) < MOST:
            value = float(value)  # JSON writers drop the ".0"
        try:
            assign(self, name, value)
        except StrictDataclassFieldValidationError as error:
            wanted = field.type.__name__ if isinstance(field.type, type) else field.type
            raise ValueError(f"{name}={quoted(value)} must be of type {wanted}") from error

    strict_config.__setattr__ = set_checked
    return strict_config


def check_counts(config: Any, *names: str) -> None:
    """Raises ValueError for a value that is not a positive integer."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int:
            raise ValueError(f"{name}={quoted(value)} must be a whole number")
        if value < 1:
            raise ValueError(f"{name}={quoted(value)} must be 1 or more")
        if value > MOST:
            raise ValueError(f"{name}={quoted(value)} must be {MOST} or less")


def check_floats(config: Any, **ranges: tuple[float, float]) -> None:
    """Raises ValueError for a value that is not a float in [``lowest``, ``end``)."""
    for name, (lowest, end) in ranges.items():
        value = getattr(config, name)
        if type(value) is not float or not lowest <= value < end:
            limits = f"from {lowest:g}" if end == math.inf else f"from {lowest:g} to below {end:g}"
            raise ValueError(f"{name}={quoted(value)} must be a number {limits}")


def check_token_ids(config: Any) -> None:
    """Raises ValueError for negative ids of special tokens."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        for token_id in value if isinstance(value, list) else [value]:
            if token_id is not None and not 0 <= token_id <= MOST:
                raise ValueError(f"{name}={quoted(value)} must be 0 or more, or null for none")


def check_ranks(ranks: Mapping[str, int | None] | None) -> None:
    """Raises ValueError for ranks below 1."""
    for name, rank in (ranks or {}).items():
        if rank is not None and not 1 <= rank <= MOST:
            raise ValueError(
                f"module_ranks gives {quoted(name)} the rank {quoted(rank)}: it must be 1 or more, "
                "or null for a dense layer"
            )


def quoted(value: Any) -> str:
    """``repr(value)`` in at most 80 characters."""
    if (
        isinstance(value, int) and abs(value) > 10**LONGEST_QUOTE
    ):  # can have too many digits to print
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | list | tuple):
        value = value[:LONGEST_QUOTE]
    elif isinstance(value, dict):
        value = dict(list(value.items())[:LONGEST_QUOTE])
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"
