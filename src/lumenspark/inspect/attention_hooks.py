"""Hooks for attention tensors that are no module's output: patterns, slots, per-head outputs.

They are recomputed from the forward pass's own queries, keys and values, so the fast attention
kernel stays in use and its output is unchanged. Only if a hook changes one of them does the model
continue with an output computed from it.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import Block, Columns, apply_rotary, lowrank
from lumenspark.inspect.model_hooks import ModelHooks, add_probe
from lumenspark.models.attention import attention_weights, causal_mask, dense_mask
from lumenspark.models.lowrank_attention_map import (
    all_present,
    read_weights,
    text_positions,
    token_weights,
)
from lumenspark.models.tensor_names import TensorSizes

SLOTS = ("attention.slots.write", "attention.slots.read")
UNIT_SCALE = 256.0  # a power of two, so scaling by it is exact


class AttentionHooks:
    """The hooks of one block. Intermediate tensors are kept until its attention has finished."""

    def __init__(self, hooks: ModelHooks, block: Block, name: str) -> None:
        self.hooks = hooks
        self.block = block
        self.name = name
        self.lowrank = lowrank(block.attention)
        self.kept: dict[str, Any] = {}

    def install(self) -> None:
        patterns = self.requested("attention.pattern", *SLOTS)
        output_modules = self.block.attention_output
        if patterns:
            self._keep_arguments()
            self._keep_heads("query", self.block.query)
            self._keep_heads("key", self.block.key)
            self._keep_heads("value", self.block.value)
        if patterns or self.requested("attention.mixed", "attention.heads"):
            self.hooks.add(output_modules[0].register_forward_pre_hook(self._on_mixed))
        if self.requested("residual_mid"):
            self.hooks.add(self.block.block.register_forward_pre_hook(self._on_block))
        if self.requested("attention.heads", "attention.out", "residual_mid"):
            self.hooks.add(output_modules[-1].register_forward_hook(self._on_out))

    def requested(self, *parts: str) -> bool:
        return any(self.hooks.requested(f"{self.name}.{part}") for part in parts)

    def call(self, part: str, tensor: Tensor) -> Tensor:
        return self.hooks.call(f"{self.name}.{part}", tensor)

    def call_with_probe(self, part: str, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.hooks.call_with_probe(f"{self.name}.{part}", tensor)

    def _keep_arguments(self) -> None:
        called = signature(type(self.block.attention).forward)  # not a wrapper's signature

        def hook(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
            self.kept.update(called.bind(module, *arguments, **named).arguments)

        self.hooks.add(self.block.attention.register_forward_pre_hook(hook, with_kwargs=True))

    def _keep_heads(self, part: str, columns: Columns) -> None:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.kept[part] = columns.heads(output, self.hooks.architecture.sizes.head_dim)

        self.hooks.add(columns.module.register_forward_hook(hook))

    def _on_block(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.kept["stream"] = arguments[0]

    def _on_mixed(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The input (B, T, H·D) of the output projection: each head's weighted mean of values."""
        flat: Tensor = inputs[0]
        mixed = flat.unflatten(-1, (-1, self.hooks.architecture.sizes.head_dim)).transpose(1, 2)
        changed = mixed
        if self.requested("attention.pattern", *SLOTS):
            changed = self._lowrank_pattern(mixed) if self.lowrank else self._dense_pattern(mixed)
        changed = self.call("attention.mixed", changed)
        self.kept = {"mixed": changed, "stream": self.kept.get("stream")}  # for _on_out
        if changed is mixed:
            return None
        return changed.transpose(1, 2).flatten(2), *inputs[1:]

    def _dense_pattern(self, mixed: Tensor) -> Tensor:
        """Call the hooks of the pattern (B, H, T, S); ``mixed``, recomputed if they changed it."""
        attention: Any = self.block.attention
        query, key = apply_rotary(attention, self.kept, self.kept["query"], self.kept["key"])
        value = self.kept["value"]
        cache = self.kept.get("past_key_values")
        if cache is not None:
            layer = cache.layers[attention.layer_idx]
            key, value = layer.keys, layer.values
        sharing = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(sharing, dim=1) for tensor in (key, value))
        mask = square_mask(self.kept.get("attention_mask"), query.shape[2])
        pattern = attention_weights(query, key, mask, attention.scaling)
        changed, probe = self.call_with_probe("attention.pattern", pattern)
        if changed is not pattern:
            mixed = changed @ value
        return mixed if probe is None else mixed + probe @ value.detach()

    def _lowrank_pattern(self, mixed: Tensor) -> Tensor:
        """As :meth:`_dense_pattern`, for ``slots.write``, ``slots.read`` and the pattern."""
        attention: Any = self.block.attention
        query, key, value = (self.kept[part] for part in ("query", "key", "value"))
        self._check_cache(query.shape[2])
        mask = self.kept.get("attention_mask")
        if isinstance(mask, list):
            raise UserError("packed texts cannot be inspected: put each text in a row of its own")
        mask = all_present(query) if mask is None else mask
        settings = attention.lowrank_settings
        own_write = settings.write_weights(key, text_positions(mask)).float()
        own_write = own_write * mask[:, None, :, None]
        write, write_probe = self.call_with_probe(SLOTS[0], own_write)
        unchanged = write is own_write and write_probe is None
        if unchanged and not self.requested(SLOTS[1], "attention.pattern"):
            return mixed  # the rest takes O(T²)
        seen_write = add_probe(write, write_probe)
        own_read, near, weight = read_weights(query, key, seen_write, settings, mask)
        read, read_probe = self.call_with_probe(SLOTS[1], own_read)
        seen_read = add_probe(read, read_probe)
        own_pattern = token_weights(seen_read, near, weight, seen_write, settings, mask)
        pattern, probe = self.call_with_probe("attention.pattern", own_pattern)
        if not (pattern is own_pattern and read is own_read and write is own_write):
            return (add_probe(pattern, probe) @ value.float()).to(mixed.dtype)
        if write_probe is None and read_probe is None and probe is None:
            return mixed
        # Zeros that depend on the probes just as the pattern does, and on nothing else.
        write = add_probe(write.detach(), write_probe)
        read, near, weight = read_weights(query.detach(), key.detach(), write, settings, mask)
        read = add_probe(read, read_probe)
        pattern = add_probe(token_weights(read, near, weight, write, settings, mask), probe)
        zeros = (pattern - pattern.detach()) @ value.detach().float()
        return mixed + zeros.to(mixed.dtype)

    def _check_cache(self, fed: int) -> None:
        cache = self.kept.get("past_key_values")
        if cache is None:
            return
        attention: Any = self.block.attention
        if cache.layers[attention.layer_idx].get_seq_length() > fed:
            raise UserError(
                "slots and patterns of low-rank attention need the whole text, and the cache "
                "holds earlier tokens only as sums: pass use_cache=False"
            )

    def _on_out(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """The output of attention (B, T, E), and the residual stream after adding it."""
        if self.requested("attention.heads"):
            own_heads, rest = self._heads()
            heads, probe = self.call_with_probe("attention.heads", own_heads)
            if heads is not own_heads:
                output = (heads.sum(1) + rest).to(output.dtype)
            output = add_probe(output, None if probe is None else probe.sum(1))
        output = self.call("attention.out", output)
        if self.requested("residual_mid"):
            stream = self.kept["stream"]
            own_middle = stream + output
            middle, probe = self.call_with_probe("residual_mid", own_middle)
            if middle is not own_middle:
                output = middle - stream
            output = add_probe(output, probe)
        self.kept = {}
        return output

    def _heads(self) -> tuple[Tensor, Tensor]:
        """Each head's contribution to the residual stream (B, H, T, E), and the bias (E,)."""
        mixed = self.kept["mixed"]
        sizes = self.hooks.architecture.sizes
        weight, bias = output_matrix(self.block.attention_output, sizes, mixed)
        by_head = weight.unflatten(0, (mixed.shape[1], -1))  # (H, D, E)
        return mixed @ by_head, bias


def output_matrix(
    modules: tuple[nn.Module, ...], sizes: TensorSizes, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The matrix (H·D, E) and the bias (E,) of consecutive linear modules of any class.

    Found by running them on scaled unit vectors and on zeros; the scale keeps a large bias from
    rounding the weights away. In the dtype of ``like``.
    """
    unit = UNIT_SCALE * torch.eye(
        sizes.heads * sizes.head_dim, dtype=like.dtype, device=like.device
    )
    vectors = torch.cat([unit, torch.zeros_like(unit[:1])])[None]
    for module in modules:
        vectors = module.forward(vectors)  # without calling hooks
    return (vectors[0, :-1] - vectors[0, -1]) / UNIT_SCALE, vectors[0, -1]


def square_mask(mask: Any, queries: int) -> Tensor | None:
    """The mask in the form :func:`attention_weights` takes, from any attention backend's form."""
    if isinstance(mask, Tensor) and mask.ndim == 2:  # flash attention's: (B, S), 0 at pads
        keys = mask.shape[1]
        return causal_mask(queries, keys, keys - queries, mask.device) & mask[:, None, None].bool()
    return dense_mask(mask)
