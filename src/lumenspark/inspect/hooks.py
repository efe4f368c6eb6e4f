"""Hooks on modules, and what is called there. (Which hooks there are: hook_context.py.)

A request maps names to functions. While it is open, each function is called with its tensor in
every forward pass, and may give another one back, with which the model goes on. Requests that are
open at once see each other's changes, in the order in which they were opened.

A request may also ask for probes: zeros that are added to its tensors, so that a loss can be
differentiated by them. Adding zeros leaves every bit of the output as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lumenspark.inspect.architectures import Anatomy, Columns, anatomy_of

# Given a tensor and the mask (B, T) of the tokens that are fed, None where none is a pad:
# another tensor of that shape, or None to leave it.
Function = Callable[[Tensor, Tensor | None], Tensor | None]


@dataclass(eq=False)
class Request:
    """What to call with which tensor. ``probes``, where given, takes the newest zeros by name."""

    functions: Mapping[str, Function]
    probes: dict[str, Tensor] | None = None


class Taps:
    """The hooks on one model, and the requests that they serve."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.anatomy: Anatomy = anatomy_of(model)
        self.requests: list[Request] = []
        self.mask: Tensor | None = None
        self._hooks: list[Any] = []

    def clear(self) -> None:
        """Take all hooks away, and see the mask from now on if there is anybody to ask for it."""
        for handle in self._hooks:
            handle.remove()
        self._hooks.clear()
        if self.requests:
            self.keep(self.model.register_forward_pre_hook(self._see_mask, with_kwargs=True))
            self.keep(self.model.register_forward_hook(self._forget_mask, always_call=True))

    def wanted(self, name: str) -> bool:
        return any(name in request.functions for request in self.requests)

    def visit(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` as the requests leave it, with its probe; itself where there is neither."""
        return plus(*self.look(name, tensor))

    def look(self, name: str, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        """``tensor`` as the requests leave it, and the probe that somebody asked for."""
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

    def on_output(self, module: nn.Module, name: str) -> None:
        """Visit a module's output: a tensor, or the first of a tuple."""
        if not self.wanted(name):
            return

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return self.visit(name, output[0]), *output[1:]
            return self.visit(name, output)

        self.keep(module.register_forward_hook(hook))

    def on_input(self, module: nn.Module, name: str) -> None:
        """Visit a module's first positional argument."""
        if not self.wanted(name):
            return

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return self.visit(name, inputs[0]), *inputs[1:]

        self.keep(module.register_forward_pre_hook(hook))

    def on_heads(self, columns: Columns, name: str, head_dim: int) -> None:
        """Visit some of a module's output features (B, T, H·D) as (B, H, T, D)."""
        if not self.wanted(name):
            return

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            heads = columns.heads(output, head_dim)
            changed = self.visit(name, heads)
            if changed is heads:
                return output
            flat = changed.transpose(1, 2).flatten(2)
            if columns.end is None:
                return flat
            result = output.clone()
            result[..., columns.begin : columns.end] = flat
            return result

        self.keep(columns.module.register_forward_hook(hook))

    def keep(self, handle: Any) -> None:
        self._hooks.append(handle)

    def _see_mask(self, model: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        """Which of the tokens that are fed now are none: for those who take means."""
        # That of the class: a wrapper on this one model (nnsight's, say) may hide its arguments.
        called = signature(type(model).forward).bind(model, *arguments, **named).arguments
        mask, fed = called.get("attention_mask"), called.get("input_ids")
        fed = called.get("inputs_embeds") if fed is None else fed
        self.mask = None
        if isinstance(mask, Tensor) and isinstance(fed, Tensor) and mask.ndim == 2:
            self.mask = mask[:, -fed.shape[1] :].bool()

    def _forget_mask(self, model: nn.Module, arguments: Any, output: Any) -> None:
        self.mask = None


def plus(tensor: Tensor, probe: Tensor | None) -> Tensor:
    """A tensor with its probe, where there is one."""
    return tensor if probe is None else tensor + probe
