"""Interventions: while a patch is open, named tensors are changed in every forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import inspect_names
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.model_hooks import HookFunction
from lumenspark.inspect.selection import Index, matching, split_index

Edit = Callable[[Tensor], Tensor]


@contextmanager
def patch(model: Any, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Inside, ``edits`` change the named tensors: in calls, in :func:`trace`, in ``generate``.

    A name may hold ``*``, and an index in brackets that picks along the axes after the batch:
    ``{"blocks.1.attention.heads[2]": zero}`` is head 2, ``{"blocks.*.residual[-1]": add(vector)}``
    the last token of those that are fed (in ``generate`` with a cache: the newest one).
    An edit is any function from the tensor (or the part picked) to what shall take its place,
    which may be of any shape that broadcasts. Edits of one tensor follow each other; patches may
    be nested, and end with their block whatever happens. Go backward inside the block where
    gradient checkpointing is on, because that runs the model a second time. Functions that were
    compiled around the model before know nothing of a patch.

    Raises UserError for names that are not there and, in the forward pass, for an index or a
    result that does not fit.
    """
    functions: dict[str, HookFunction] = {}
    names = inspect_names(model)
    for written, edit in edits.items():
        pattern, index = split_index(written)
        for name in matching([pattern], names):
            change = _change(name, index, edit)
            functions[name] = _both(functions[name], change) if name in functions else change
    with tensor_hooks(model, functions):
        yield


def zero(tensor: Tensor) -> Tensor:
    """An edit: zeros."""
    return torch.zeros_like(tensor)


def mean(tensor: Tensor, mask: Tensor | None = None) -> Tensor:
    """An edit: the mean over all rows and tokens of the pass, pads (False in ``mask``) left out.

    ``tensor`` is (B, T, …) or (B, H, T, …).
    """
    if mask is None:
        return tensor.mean(dim=(0, -2), keepdim=True)
    weights = mask.to(tensor.dtype)
    weights = weights.view(len(mask), *[1] * (tensor.ndim - 3), -1, 1) / weights.sum()
    return (tensor * weights).sum(dim=(0, -2), keepdim=True)


def replace(value: Tensor | float) -> Edit:
    """An edit: ``value``, of any shape that broadcasts."""

    def put(tensor: Tensor) -> Tensor:
        return torch.as_tensor(value).to(tensor)

    return put


def add(vector: Tensor | float) -> Edit:
    """An edit: the tensor plus ``vector``, of any shape that broadcasts."""

    def plus(tensor: Tensor) -> Tensor:
        return tensor + torch.as_tensor(vector).to(tensor)

    return plus


def _change(name: str, index: Index, edit: Edit) -> HookFunction:
    """The edit of the part that ``index`` picks, as a function of the whole tensor."""
    if edit is mean and name.endswith(".pattern"):
        raise UserError(f"the mean of {name} over tokens would look ahead: use another edit")

    def change(tensor: Tensor, mask: Tensor | None) -> Tensor:
        place = (slice(None), *index)
        try:
            part = tensor[place]
        except IndexError as error:
            raise UserError(
                f"{name} has the shape {tuple(tensor.shape)}, so [{_written(index)}] is not in it"
            ) from error
        tokens = tensor.ndim - 3  # where the index picks tokens
        if edit is mean and len(index) > tokens and index[tokens] != slice(None):
            raise UserError(f"{name}[{_written(index)}] picks a token: the mean is over all tokens")
        value = mean(tensor, mask).expand_as(tensor)[place] if edit is mean else edit(part)
        changed = tensor.clone()
        try:
            changed[place] = value.to(tensor)
        except (RuntimeError, AttributeError) as error:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"the edit of {name} gave {shape} where {tuple(part.shape)} was: give a tensor of "
                "that shape, or one that broadcasts to it"
            ) from error
        return changed

    return change


def _both(first: HookFunction, second: HookFunction) -> HookFunction:
    def change(tensor: Tensor, mask: Tensor | None) -> Tensor | None:
        changed = first(tensor, mask)
        return second(tensor if changed is None else changed, mask)

    return change


def _written(index: Index) -> str:
    """An index as the user wrote it."""
    return ", ".join(
        ":".join("" if bound is None else str(bound) for bound in (part.start, part.stop))
        if isinstance(part, slice)
        else str(part)
        for part in index
    )
