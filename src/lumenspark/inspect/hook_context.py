"""Hooks on exactly those modules whose tensors somebody asks for; none, and no cost, otherwise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.inspect.attention_hooks import AttentionTaps
from lumenspark.inspect.hooks import Function, Request, Taps


@contextmanager
def tapped(
    model: Any, functions: Mapping[str, Function], probes: dict[str, Tensor] | None = None
) -> Iterator[None]:
    """Inside, ``functions`` are called with their tensors in every forward pass of ``model``.

    Raises UserError for a family that is not known, and for a compiled model.
    """
    taps = _open_taps.get(model) or Taps(model)
    if any(_is_compiled(module) for module in model.modules()):
        raise UserError(
            "a compiled model cannot be looked into: give the model as it was before "
            "torch.compile, its parts too"
        )
    request = Request(functions, probes)
    _open_taps[model] = taps
    taps.requests.append(request)
    try:
        _install(taps)
        yield
    finally:
        taps.requests.remove(request)
        if taps.requests:
            _install(taps)
        else:
            taps.clear()
            del _open_taps[model]


_open_taps: WeakKeyDictionary[nn.Module, Taps] = WeakKeyDictionary()


def _is_compiled(module: nn.Module) -> bool:
    """Whether it runs without asking for hooks that come later."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _install(taps: Taps) -> None:
    """The hooks that the open requests need, in the place of those that were there."""
    taps.clear()
    anatomy = taps.anatomy
    taps.on_input(anatomy.blocks[0].block, "embed")
    for index, block in enumerate(anatomy.blocks):
        name = f"blocks.{index}"
        taps.on_output(block.attention_norm, f"{name}.attention.input")
        for part in ("query", "key", "value"):
            columns = getattr(block, part)
            taps.on_heads(columns, f"{name}.attention.{part}", anatomy.sizes.head_dim)
        AttentionTaps(taps, block, name).install()
        taps.on_output(block.mlp_norm, f"{name}.mlp.input")
        if block.gate is not None:
            taps.on_output(block.gate, f"{name}.mlp.gate")
        taps.on_output(block.up, f"{name}.mlp.up")
        taps.on_input(block.down, f"{name}.mlp.hidden")
        taps.on_output(block.mlp_exit, f"{name}.mlp.out")
        taps.on_output(block.block, f"{name}.residual")
    taps.on_output(anatomy.final_norm, "final_norm")
    taps.on_output(anatomy.head, "logits")
