"""Patching: change named tensors in every forward pass inside a block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.model_hooks import HookFunction
from lumenspark.inspect.selection import Index, select_names, split_index

Edit = Callable[[Tensor], Tensor]


@contextmanager
def patch(model: Any, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Apply ``edits`` to the named tensors inside the block: in calls, :func:`trace`, ``generate``.

    Names are ours or TransformerLens' and may contain ``*``, and an index in brackets into the
    axes after the batch: ``{"blocks.1.attention.heads[2]": zero}`` is head 2,
    ``{"blocks.*.residual[-1]": add(vector)}`` the last input token (in ``generate`` with a cache:
    the newest token). An edit is any function from the tensor, or the indexed part, to its
    replacement, of any shape that broadcasts. Edits of the same tensor apply in order. Patches
    nest, and are removed when their block ends, also by an exception. With gradient checkpointing,
    run the backward pass inside the block, since it repeats the forward pass. Functions compiled
    around the model earlier ignore patches.

    Raises UserError for unknown names, for an edit that is not a function and, in the forward
    pass, for an index or a result that does not fit.
    """
    functions: dict[str, HookFunction] = {}
    for written, edit in _checked(edits).items():
        pattern, index = split_index(written)
        for name in select_names(model, [pattern]):
            change = _change(name, index, edit)
            functions[name] = _both(functions[name], change) if name in functions else change
    with tensor_hooks(model, functions):
        yield


def zero(tensor: Tensor) -> Tensor:
    """An edit: zeros."""
    return torch.zeros_like(tensor)


def mean(tensor: Tensor, mask: Tensor | None = None) -> Tensor:
    """An edit: the mean over all rows and tokens, without padding (False in ``mask``).

    ``tensor`` is (B, T, …) or (B, H, T, …).
    """
    if mask is None:
        return tensor.mean(dim=(0, -2), keepdim=True)
    weights = mask.to(tensor.dtype)
    weights = weights.view(len(mask), *[1] * (tensor.ndim - 3), -1, 1) / weights.sum()
    return (tensor * weights).sum(dim=(0, -2), keepdim=True)


def replace(value: Tensor | float) -> Edit:
    """An edit: replace by ``value``, of any shape that broadcasts."""

    def edit(tensor: Tensor) -> Tensor:
        return torch.as_tensor(value).to(tensor)

    return edit


def add(vector: Tensor | float) -> Edit:
    """An edit: add ``vector``, of any shape that broadcasts."""

    def edit(tensor: Tensor) -> Tensor:
        return tensor + torch.as_tensor(vector).to(tensor)

    return edit


def _checked(edits: Any) -> Mapping[str, Edit]:
    if not isinstance(edits, Mapping):
        raise UserError(
            f"the edits are a {type(edits).__name__}: give them by name, such as "
            '{"blocks.0.attention.heads[0]": zero}'
        )
    for written, edit in edits.items():
        if not callable(edit):
            raise UserError(
                f"the edit of {written} is a {type(edit).__name__}: give a function from the "
                "tensor to its replacement, such as zero, mean, replace(value) or add(value) of "
                "lumenspark.inspect"
            )
    return edits


def _change(name: str, index: Index, edit: Edit) -> HookFunction:
    """The edit of the part at ``index``, as a function of the whole tensor."""
    if edit is mean and name.endswith(".pattern"):
        raise UserError(
            f"the mean of {name} over tokens would attend to later tokens: use another edit"
        )

    def change(tensor: Tensor, mask: Tensor | None) -> Tensor:
        place = (slice(None), *index)
        try:
            part = tensor[place]
        except IndexError as error:
            raise UserError(
                f"[{_written(index)}] is out of range: {name} has shape {tuple(tensor.shape)}"
            ) from error
        tokens = tensor.ndim - 3  # the axis of tokens in the index
        if edit is mean and len(index) > tokens and index[tokens] != slice(None):
            raise UserError(
                f"{name}[{_written(index)}] selects tokens, but the mean is over all tokens"
            )
        value = mean(tensor, mask).expand_as(tensor)[place] if edit is mean else edit(part)
        changed = tensor.clone()
        try:
            changed[place] = value.to(tensor)
        except (RuntimeError, AttributeError) as error:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"the edit of {name} returned {shape}: return a tensor of shape "
                f"{tuple(part.shape)}, or one that broadcasts to it"
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
