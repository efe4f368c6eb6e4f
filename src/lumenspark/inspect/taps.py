"""Hooks on exactly those modules whose tensors somebody asks for; none, and no cost, otherwise.

A request maps names to functions. While it is open, each function is called with its tensor in
every forward pass, and may give another one back, with which the model goes on. Requests that are
open at once see each other's changes, in the order in which they were opened.

A request may also ask for probes: zeros that are added to its tensors, so that a loss can be
differentiated by them. Adding zeros leaves every bit of the output as it was.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lumenspark.errors import UserError

from .anatomy import Anatomy, Columns, anatomy_of
from .attention_taps import AttentionTaps, plus

# Given a tensor and the mask (B, T) of the tokens that are fed, None where none is a pad:
# another tensor of that shape, or None to leave it.
Function = Callable[[Tensor, Tensor | None], Tensor | None]


@dataclass(eq=False)
class Request:
    """What to call with which tensor. ``probes``, where given, takes the newest zeros by name."""

    functions: Mapping[str, Function]
    probes: dict[str, Tensor] | None = None


@contextmanager
def tapped(
    model: Any, functions: Mapping[str, Function], probes: dict[str, Tensor] | None = None
) -> Iterator[None]:
    """Inside, ``functions`` are called in every forward pass of ``model``.

    Raises UserError for a family that is not known, and for a compiled model.
    """
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError(
            "a compiled model cannot be looked into: give the model as it was before torch.compile"
        )
    taps = _open_taps.get(model)
    if taps is None:
        taps = _open_taps[model] = Taps(model)
    request = Request(functions, probes)
    taps.open(request)
    try:
        yield
    finally:
        taps.close(request)
        if not taps.requests:
            del _open_taps[model]


class Taps:
    """The hooks on one model, and the requests that they serve."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.anatomy: Anatomy = anatomy_of(model)
        self.requests: list[Request] = []
        self.mask: Tensor | None = None
        self._hooks: list[Any] = []

    def open(self, request: Request) -> None:
        self.requests.append(request)
        self._install()

    def close(self, request: Request) -> None:
        self.requests = [other for other in self.requests if other is not request]
        self._install()

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
        part = slice(columns.begin, columns.end)

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            heads = output[..., part].unflatten(-1, (-1, head_dim)).transpose(1, 2)
            changed = self.visit(name, heads)
            if changed is heads:
                return output
            flat = changed.transpose(1, 2).flatten(2)
            if columns.end is None:
                return flat
            result = output.clone()
            result[..., part] = flat
            return result

        self.keep(columns.module.register_forward_hook(hook))

    def keep(self, handle: Any) -> None:
        self._hooks.append(handle)

    def _install(self) -> None:
        for handle in self._hooks:
            handle.remove()
        self._hooks.clear()
        if not self.requests:
            return
        self.keep(self.model.register_forward_pre_hook(self._see_mask, with_kwargs=True))
        anatomy = self.anatomy
        self.on_input(anatomy.blocks[0].block, "embed")
        for index, block in enumerate(anatomy.blocks):
            name = f"blocks.{index}"
            self.on_output(block.attention_norm, f"{name}.attention.input")
            for part in ("query", "key", "value"):
                columns = getattr(block, part)
                self.on_heads(columns, f"{name}.attention.{part}", anatomy.sizes.head_dim)
            AttentionTaps(self, block, name).install()
            self.on_output(block.mlp_norm, f"{name}.mlp.input")
            if block.gate is not None:
                self.on_output(block.gate, f"{name}.mlp.gate")
            self.on_output(block.up, f"{name}.mlp.up")
            self.on_input(block.down, f"{name}.mlp.hidden")
            self.on_output(block.mlp_exit, f"{name}.mlp.out")
            self.on_output(block.block, f"{name}.residual")
        self.on_output(anatomy.final_norm, "final_norm")
        self.on_output(anatomy.head, "logits")

    def _see_mask(self, model: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        """Which of the tokens that are fed now are none: for those who take means."""
        # That of the class: a wrapper on this one model (nnsight's, say) may hide its arguments.
        called = signature(type(model).forward).bind(model, *arguments, **named).arguments
        mask, fed = called.get("attention_mask"), called.get("input_ids")
        fed = called.get("inputs_embeds") if fed is None else fed
        self.mask = None
        if isinstance(mask, Tensor) and isinstance(fed, Tensor) and mask.ndim == 2:
            self.mask = mask[:, -fed.shape[1] :].bool()


_open_taps: WeakKeyDictionary[nn.Module, Taps] = WeakKeyDictionary()
