"""Names of inner tensors as a user writes them: with ``*``, and with indices in brackets."""

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from lumenspark.errors import UserError, quoted

Index = tuple[int | slice, ...]


def matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of ``names`` that one of ``patterns`` matches, in their order; ``*`` matches anything.

    Raises UserError for a pattern that matches none.
    """
    if isinstance(patterns, str):
        raise UserError(f"names must be a list: write names=[{quoted(patterns)}]")
    known, patterns = list(names), list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern.replace("*", "0"), known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(
                f"this model has no tensor called {quoted(pattern)}{hint}: inspect_names lists them"
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def split_index(written: str) -> tuple[str, Index]:
    """``blocks.1.attention.heads[2, -1]`` as the name and the index behind it.

    An index picks along the axes after the batch, as Python does: whole numbers and slices.
    Raises UserError for what is neither.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]+)\])?", written)
    try:
        if match is None:
            raise ValueError
        index = match[2].split(",") if match[2] else []
        return match[1], tuple(_position(part.strip()) for part in index)
    except ValueError as error:
        raise UserError(
            f"{quoted(written)} is no tensor's name: write name, name[2] or name[2, 5:9], an index "
            "along the axes after the batch"
        ) from error


def _position(text: str) -> int | slice:
    if ":" not in text:
        return int(text)
    bounds = [int(part) if part.strip() else None for part in text.split(":")]
    if len(bounds) > 3 or (len(bounds) == 3 and bounds[2] is not None and bounds[2] < 1):
        raise ValueError
    return slice(*bounds)
