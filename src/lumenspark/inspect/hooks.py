"""Hooks on exactly the modules whose tensors are requested; no hooks and no cost otherwise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.inspect.attention_hooks import AttentionHooks
from lumenspark.inspect.model_hooks import HookFunction, ModelHooks, Request


@contextmanager
def tensor_hooks(
    model: Any, functions: Mapping[str, HookFunction], probes: dict[str, Tensor] | None = None
) -> Iterator[None]:
    """Call ``functions`` with their tensors in every forward pass of ``model`` inside the block.

    ``functions`` and ``probes`` are keyed by the names of :func:`inspect_names`; see
    :class:`Request`. Raises UserError for an unsupported architecture or a compiled model.
    """
    hooks = _open_hooks.get(model) or ModelHooks(model)
    if any(_is_compiled(module) for module in model.modules()):
        raise UserError(
            "a compiled model cannot be inspected: pass the model from before torch.compile, "
            "with no compiled submodules"
        )
    request = Request(functions, probes)
    _open_hooks[model] = hooks
    hooks.requests.append(request)
    try:
        _install(hooks)
        yield
    finally:
        hooks.requests.remove(request)
        if hooks.requests:
            _install(hooks)
        else:
            hooks.clear()
            del _open_hooks[model]


_open_hooks: WeakKeyDictionary[nn.Module, ModelHooks] = WeakKeyDictionary()


def _is_compiled(module: nn.Module) -> bool:
    """Whether the module ignores hooks registered from now on."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _install(hooks: ModelHooks) -> None:
    """Replace the hooks on the model by those its open requests need."""
    hooks.clear()
    architecture = hooks.architecture
    hooks.hook_input(architecture.blocks[0].block, "embed")
    for index, block in enumerate(architecture.blocks):
        name = f"blocks.{index}"
        hooks.hook_output(block.attention_norm, f"{name}.attention.input")
        for part in ("query", "key", "value"):
            columns = getattr(block, part)
            hooks.hook_heads(columns, f"{name}.attention.{part}", architecture.sizes.head_dim)
        AttentionHooks(hooks, block, name).install()
        hooks.hook_output(block.mlp_norm, f"{name}.mlp.input")
        if block.gate is not None:
            hooks.hook_output(block.gate, f"{name}.mlp.gate")
        hooks.hook_output(block.up, f"{name}.mlp.up")
        hooks.hook_input(block.down, f"{name}.mlp.hidden")
        hooks.hook_output(block.mlp_output, f"{name}.mlp.out")
        hooks.hook_output(block.block, f"{name}.residual")
    hooks.hook_output(architecture.final_norm, "final_norm")
    hooks.hook_output(architecture.head, "logits")
