"""The tensors of attention that no module's output holds: patterns, slots, and each head's share.

They are computed beside the forward pass, from its own queries, keys and values, so that the fast
attention stays in use and its output is untouched; only where somebody changes one of them does
the model go on with an output made from it.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import Block, Columns, lowrank, rotated
from lumenspark.inspect.hooks import Taps, plus
from lumenspark.models.attention import attention_weights, causal_mask, dense_mask
from lumenspark.models.lowrank_attention_map import (
    all_present,
    read_weights,
    text_positions,
    token_weights,
)
from lumenspark.models.tensor_names import TensorSizes

SLOTS = ("attention.slots.write", "attention.slots.read")
ASKED_LENGTH = 256.0  # a power of two, so that no bit is lost by it


class AttentionTaps:
    """Those of one block. What is seen on the way is kept until the block's attention is done."""

    def __init__(self, taps: Taps, block: Block, name: str) -> None:
        self.taps = taps
        self.block = block
        self.name = name
        self.lowrank = lowrank(block.attention)
        self.seen: dict[str, Any] = {}

    def install(self) -> None:
        patterns = self.wanted("attention.pattern", *SLOTS)
        exit_ = self.block.attention_exit
        if patterns:
            self._remember_arguments()
            self._remember_heads("query", self.block.query)
            self._remember_heads("key", self.block.key)
            self._remember_heads("value", self.block.value)
        if patterns or self.wanted("attention.mixed", "attention.heads"):
            self.taps.keep(exit_[0].register_forward_pre_hook(self._on_mixed))
        if self.wanted("residual_mid"):
            self.taps.keep(self.block.block.register_forward_pre_hook(self._on_block))
        if self.wanted("attention.heads", "attention.out", "residual_mid"):
            self.taps.keep(exit_[-1].register_forward_hook(self._on_out))

    def wanted(self, *parts: str) -> bool:
        return any(self.taps.wanted(f"{self.name}.{part}") for part in parts)

    def visit(self, part: str, tensor: Tensor) -> Tensor:
        return self.taps.visit(f"{self.name}.{part}", tensor)

    def look(self, part: str, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.taps.look(f"{self.name}.{part}", tensor)

    def _remember_arguments(self) -> None:
        called = signature(type(self.block.attention).forward)  # past wrappers on this one module

        def hook(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
            self.seen.update(called.bind(module, *arguments, **named).arguments)

        self.taps.keep(self.block.attention.register_forward_pre_hook(hook, with_kwargs=True))

    def _remember_heads(self, part: str, columns: Columns) -> None:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.seen[part] = columns.heads(output, self.taps.anatomy.sizes.head_dim)

        self.taps.keep(columns.module.register_forward_hook(hook))

    def _on_block(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.seen["stream"] = arguments[0]

    def _on_mixed(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before the way out: (B, T, H·D), each head's weighted mean of values."""
        flat: Tensor = inputs[0]
        mixed = flat.unflatten(-1, (-1, self.taps.anatomy.sizes.head_dim)).transpose(1, 2)
        changed = mixed
        if self.wanted("attention.pattern", *SLOTS):
            changed = self._lowrank_pattern(mixed) if self.lowrank else self._dense_pattern(mixed)
        changed = self.visit("attention.mixed", changed)
        self.seen = {"mixed": changed, "stream": self.seen.get("stream")}  # what is needed later
        if changed is mixed:
            return None
        return changed.transpose(1, 2).flatten(2), *inputs[1:]

    def _dense_pattern(self, mixed: Tensor) -> Tensor:
        """Visit the pattern (B, H, T, S); ``mixed`` as it follows from what it has become."""
        attention: Any = self.block.attention
        query, key = rotated(attention, self.seen, self.seen["query"], self.seen["key"])
        value = self.seen["value"]
        cache = self.seen.get("past_key_values")
        if cache is not None:
            layer = cache.layers[attention.layer_idx]
            key, value = layer.keys, layer.values
        sharing = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(sharing, dim=1) for tensor in (key, value))
        mask = square_mask(self.seen.get("attention_mask"), query.shape[2])
        pattern = attention_weights(query, key, mask, attention.scaling)
        changed, probe = self.look("attention.pattern", pattern)
        if changed is not pattern:
            mixed = changed @ value
        return mixed if probe is None else mixed + probe @ value.detach()

    def _lowrank_pattern(self, mixed: Tensor) -> Tensor:
        """Visit ``slots.write``, ``slots.read`` and the pattern, as :meth:`_dense_pattern` does."""
        attention: Any = self.block.attention
        query, key, value = (self.seen[part] for part in ("query", "key", "value"))
        self._check_cache(query.shape[2])
        mask = self.seen.get("attention_mask")
        if isinstance(mask, list):
            raise UserError("several texts in one row cannot be looked into: give each its own row")
        mask = all_present(query) if mask is None else mask
        settings = attention.lowrank_settings
        own_write = settings.write_weights(key, text_positions(mask)).float()
        own_write = own_write * mask[:, None, :, None]
        write, write_probe = self.look(SLOTS[0], own_write)
        untouched = write is own_write and write_probe is None
        if untouched and not self.wanted(SLOTS[1], "attention.pattern"):
            return mixed  # what follows takes O(T²)
        seen_write = plus(write, write_probe)
        own_read, near, weight = read_weights(query, key, seen_write, settings, mask)
        read, read_probe = self.look(SLOTS[1], own_read)
        seen_read = plus(read, read_probe)
        own_pattern = token_weights(seen_read, near, weight, seen_write, settings, mask)
        pattern, probe = self.look("attention.pattern", own_pattern)
        if not (pattern is own_pattern and read is own_read and write is own_write):
            return (plus(pattern, probe) @ value.float()).to(mixed.dtype)
        if write_probe is None and read_probe is None and probe is None:
            return mixed
        # Zeros that depend on the probes as the pattern does, and on nothing else.
        write = plus(write.detach(), write_probe)
        read, near, weight = read_weights(query.detach(), key.detach(), write, settings, mask)
        read = plus(read, read_probe)
        pattern = plus(token_weights(read, near, weight, write, settings, mask), probe)
        zeros = (pattern - pattern.detach()) @ value.detach().float()
        return mixed + zeros.to(mixed.dtype)

    def _check_cache(self, fed: int) -> None:
        cache = self.seen.get("past_key_values")
        if cache is None:
            return
        attention: Any = self.block.attention
        if cache.layers[attention.layer_idx].get_seq_length() > fed:
            raise UserError(
                "slots and patterns of low-rank attention need the whole text, and the cache holds "
                "its beginning only as sums: use use_cache=False"
            )

    def _on_out(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """What attention adds to the residual stream (B, T, E), and the stream after it."""
        if self.wanted("attention.heads"):
            own_heads, rest = self._heads()
            heads, probe = self.look("attention.heads", own_heads)
            if heads is not own_heads:
                output = (heads.sum(1) + rest).to(output.dtype)
            output = plus(output, None if probe is None else probe.sum(1))
        output = self.visit("attention.out", output)
        if self.wanted("residual_mid"):
            stream = self.seen["stream"]
            own_middle = stream + output
            middle, probe = self.look("residual_mid", own_middle)
            if middle is not own_middle:
                output = middle - stream
            output = plus(output, probe)
        self.seen = {}
        return output

    def _heads(self) -> tuple[Tensor, Tensor]:
        """What each head adds to the stream (B, H, T, E), and what the biases add (E,)."""
        mixed = self.seen["mixed"]
        weight, bias = exit_map(self.block.attention_exit, self.taps.anatomy.sizes, mixed)
        by_head = weight.unflatten(0, (mixed.shape[1], -1))  # (H, D, E)
        return mixed @ by_head, bias


def exit_map(
    modules: tuple[nn.Module, ...], sizes: TensorSizes, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The matrix (H·D, E) and the bias (E,) of linear modules in a row, whatever their kind.

    Found by asking: for long vectors along each axis, beside which a bias drowns little of the
    weights in rounding, and for nothing at all. In the dtype of ``like``.
    """
    unit = ASKED_LENGTH * torch.eye(
        sizes.heads * sizes.head_dim, dtype=like.dtype, device=like.device
    )
    asked = torch.cat([unit, torch.zeros_like(unit[:1])])[None]
    for module in modules:
        asked = module.forward(asked)  # past the hooks
    return (asked[0, :-1] - asked[0, -1]) / ASKED_LENGTH, asked[0, -1]


def square_mask(mask: Any, queries: int) -> Tensor | None:
    """The mask as :func:`attention_weights` takes it, whatever attention it was made for."""
    if isinstance(mask, Tensor) and mask.ndim == 2:  # flash attention's: (B, S), 0 at pads
        keys = mask.shape[1]
        return causal_mask(queries, keys, keys - queries, mask.device) & mask[:, None, None].bool()
    return dense_mask(mask)
