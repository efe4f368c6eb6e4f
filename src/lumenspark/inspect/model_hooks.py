"""The module hooks on one model, and the requests they serve.

A request maps tensor names to functions. While it is open, every forward pass calls each function
with its tensor, and the model continues with the result, if there is one. Requests that are open
together see each other's changes, in the order of opening.

A request may also ask for probes: zeros added to its tensors, with respect to which a loss can be
differentiated. Adding zeros leaves every bit of the output unchanged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lumenspark.inspect.architectures import Architecture, Columns, architecture_of

# Takes a tensor and the mask (B, T) of the tokens fed (None without padding); returns a
# replacement of the same shape, or None to keep the tensor.
HookFunction = Callable[[Tensor, Tensor | None], Tensor | None]


@dataclass(eq=False)
class Request:
    """Functions by tensor name. ``probes``, if given, receives the latest zeros by name."""

    functions: Mapping[str, HookFunction]
    probes: dict[str, Tensor] | None = None


class ModelHooks:
    """The hooks on one model, and the requests they serve."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.architecture: Architecture = architecture_of(model)
        self.requests: list[Request] = []
        self.mask: Tensor | None = None
        self._handles: list[Any] = []

    def clear(self) -> None:
        """Remove all hooks; while requests are open, keep track of the padding mask."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self.requests:
            self.add(self.model.register_forward_pre_hook(self._set_mask, with_kwargs=True))
            self.add(self.model.register_forward_hook(self._clear_mask, always_call=True))

    def add(self, handle: Any) -> None:
        """Own a hook's handle: :meth:`clear` removes the hook."""
        self._handles.append(handle)

    def requested(self, name: str) -> bool:
        return any(name in request.functions for request in self.requests)

    def call(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` after all functions, plus its probe; the same object if there are neither."""
        return add_probe(*self.call_with_probe(name, tensor))

    def call_with_probe(self, name: str, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        """``tensor`` after all functions, and its probe if a request asks for one."""
        probe = None
        for request in self.requests:
            function = request.functions.get(name)
            if function is None:
                continue
            changed = function(tensor, self.mask)
            tensor = tensor if changed is None else changed
            if request.probes is not None:
                probe = torch.zeros_like(tensor, requires_grad=True) if probe is None else probe
                request.probes[name] = probe
        return tensor, probe

    def hook_output(self, module: nn.Module, name: str) -> None:
        """Hook a module's output: a tensor, or the first of a tuple."""
        if not self.requested(name):
            return

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return self.call(name, output[0]), *output[1:]
            return self.call(name, output)

        self.add(module.register_forward_hook(hook))

    def hook_input(self, module: nn.Module, name: str) -> None:
        """Hook a module's first positional argument."""
        if not self.requested(name):
            return

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return self.call(name, inputs[0]), *inputs[1:]

        self.add(module.register_forward_pre_hook(hook))

    def hook_heads(self, columns: Columns, name: str, head_dim: int) -> None:
        """Hook columns of a module's output (B, T, H·D) as (B, H, T, D)."""
        if not self.requested(name):
            return

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            heads = columns.heads(output, head_dim)
            changed = self.call(name, heads)
            if changed is heads:
                return output
            flat = changed.transpose(1, 2).flatten(2)
            if columns.end is None:
                return flat
            result = output.clone()
            result[..., columns.begin : columns.end] = flat
            return result

        self.add(columns.module.register_forward_hook(hook))

    def _set_mask(self, model: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        # The class's signature: a wrapper around this instance (nnsight) may hide the arguments.
        called = signature(type(model).forward).bind(model, *arguments, **named).arguments
        mask, fed = called.get("attention_mask"), called.get("input_ids")
        fed = called.get("inputs_embeds") if fed is None else fed
        self.mask = None
        if isinstance(mask, Tensor) and isinstance(fed, Tensor) and mask.ndim == 2:
            self.mask = mask[:, -fed.shape[1] :].bool()

    def _clear_mask(self, model: nn.Module, arguments: Any, output: Any) -> None:
        self.mask = None


def add_probe(tensor: Tensor, probe: Tensor | None) -> Tensor:
    """``tensor + probe``; ``tensor`` itself without a probe."""
    return tensor if probe is None else tensor + probe
