"""Tensor names as users write them: ours or TransformerLens', with ``*``, with indices."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from lumenspark.errors import UserError, did_you_mean, quoted
from lumenspark.inspect.architectures import Architecture, architecture_of
from lumenspark.inspect.transformer_lens_names import counterparts, nearest_tensors
from lumenspark.models.tensor_names import tensor_names

Index = tuple[int | slice, ...]


class NamedTensors(dict[str, Tensor]):
    """A model's tensors by our names; also found by TransformerLens' names.

    An unknown name raises UserError.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, name: str) -> Tensor:
        ours = select_name(self.model, name)
        if ours not in self:
            raise UserError(f"{name} was not requested: trace(model, text, names=[{quoted(name)}])")
        return self[ours]


def select_names(model: Any, patterns: Iterable[str]) -> list[str]:
    """Our names of the tensors that ``patterns`` match, in the model's order; ``*`` matches all.

    A pattern that matches no name of ours is matched against TransformerLens' names.
    Raises UserError for a pattern that matches nothing, and for an unsupported architecture.
    """
    if isinstance(patterns, str):
        raise UserError(f"names must be a list: write names=[{quoted(patterns)}]")
    architecture = architecture_of(model)
    names = list(tensor_names(architecture.sizes))
    selected = {name for pattern in patterns for name in _matching(pattern, names, architecture)}
    return [name for name in names if name in selected]


def select_name(model: Any, name: str) -> str:
    """Our name of the one tensor that ``name`` matches. Raises UserError for none or several."""
    names = select_names(model, [name])
    if len(names) != 1:
        raise UserError(f"{name} matches {len(names)} tensors: give the full name of one")
    return names[0]


def _matching(pattern: str, names: list[str], architecture: Architecture) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if found:
        return found
    equal = counterparts(architecture)
    found = [ours for theirs, ours in equal.items() if fnmatchcase(theirs, pattern)]
    if found:
        return found
    for theirs, ours in nearest_tensors(architecture).items():
        if fnmatchcase(theirs, pattern):
            raise UserError(
                f"TransformerLens' {theirs} has no equal among this model's tensors: the nearest "
                f"is {ours}"
            )
    hint = did_you_mean(pattern.replace("*", "0"), [*names, *equal])
    raise UserError(
        f"this model has no tensor called {quoted(pattern)}{hint}: inspect_names lists them"
    )


def split_index(written: str) -> tuple[str, Index]:
    """Split ``blocks.1.attention.heads[2, -1]`` into the name and the index.

    An index applies to the axes after the batch and consists of integers and slices, as in Python.
    Raises UserError for anything else.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]+)\])?", written)
    try:
        if match is None:
            raise ValueError
        index = match[2].split(",") if match[2] else []
        return match[1], tuple(_position(part.strip()) for part in index)
    except ValueError as error:
        raise UserError(
            f"{quoted(written)} is not a tensor name: write name, name[2] or name[2, 5:9], with an "
            "index into the axes after the batch"
        ) from error


def _position(text: str) -> int | slice:
    if ":" not in text:
        return int(text)
    bounds = [int(part) if part.strip() else None for part in text.split(":")]
    if len(bounds) > 3 or (len(bounds) == 3 and bounds[2] is not None and bounds[2] < 1):
        raise ValueError
    return slice(*bounds)
