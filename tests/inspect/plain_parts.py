"""Reference implementations of all families in plain torch, with every inner tensor by name.

One row of tokens, no cache, no mask, no batch axis. Any tensor may be changed where it comes to be,
and everything is differentiable.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lumenspark.models.lowrank_linear import LowRankLinear

Edit = Callable[[Tensor], Tensor]
See = Callable[[str, Tensor], Tensor]
Affine = tuple[Tensor, Tensor | float]  # a matrix (in, out) and a bias


@dataclass
class PlainBlock:
    """The weights of one block, under common names."""

    first_norm: nn.Module
    query: Affine
    key: Affine
    value: Affine
    exit: Affine
    second_norm: nn.Module
    gate: Affine | None
    up: Affine
    down: Affine
    activation: Callable[[Tensor], Tensor]
    scaling: float
    rope_theta: float | None = None
    write: Tensor | None = None  # (H, D, K) by content, (H, n, K) by position


def plain_parts(
    model: Any, ids: Tensor | list[int], edits: Mapping[str, Edit] | None = None
) -> dict[str, Tensor]:
    """Every inner tensor of one row (T,) by name; ``edits`` replace tensors during the pass."""
    parts: dict[str, Tensor] = {}

    def see(name: str, tensor: Tensor) -> Tensor:
        edit = (edits or {}).get(name)
        parts[name] = tensor if edit is None else edit(tensor)
        return parts[name]

    ids = torch.as_tensor(ids)
    stream = see("embed", embedding(model, ids))
    blocks = [plain_block(model, layer) for layer in range(2)]
    for layer, block in enumerate(blocks):

        def see_here(name: str, tensor: Tensor, layer: int = layer) -> Tensor:
            return see(f"blocks.{layer}.{name}", tensor)

        stream = run_block(model, block, stream, see_here)
    final_norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    normed = see("final_norm", norm(final_norm, stream))
    see("logits", times(normed, affine(model.lm_head)))
    return parts


def plain_loss(logits: Tensor, ids: Tensor | list[int]) -> Tensor:
    """Mean nats of the tokens after the first."""
    logarithms = logits - logits.logsumexp(-1, keepdim=True)
    targets = torch.as_tensor(ids)[1:]
    return -logarithms[torch.arange(len(targets)), targets].mean()


def run_block(model: Any, block: PlainBlock, stream: Tensor, see: See) -> Tensor:
    normed = see("attention.input", norm(block.first_norm, stream))
    heads = model.config.num_attention_heads
    query = see("attention.query", by_head(times(normed, block.query), heads))
    size = query.shape[-1]
    key, value = (
        see(f"attention.{name}", by_head(flat, flat.shape[-1] // size))
        for name, flat in (
            ("key", times(normed, block.key)),
            ("value", times(normed, block.value)),
        )
    )
    if block.rope_theta is not None:
        query, key = turned(query, block.rope_theta), turned(key, block.rope_theta)
    shared = torch.arange(heads) // (heads // len(key))  # which key each query asks
    key, value = key[shared], value[shared]
    if getattr(model.config, "k", None) is None:
        pattern = dense_pattern(query, key, block.scaling)
    else:
        pattern = low_rank_pattern(model.config, block, query, key, see)
    pattern = see("attention.pattern", pattern)
    mixed = see("attention.mixed", pattern @ value)
    matrix, bias = block.exit
    added = see("attention.heads", mixed @ matrix.unflatten(0, (heads, size)))
    out = see("attention.out", added.sum(0) + bias)
    middle = see("residual_mid", stream + out)

    normed = see("mlp.input", norm(block.second_norm, middle))
    if block.gate is None:
        units = block.activation(see("mlp.up", times(normed, block.up)))
    else:
        gate = see("mlp.gate", times(normed, block.gate))
        units = block.activation(gate) * see("mlp.up", times(normed, block.up))
    out = see("mlp.out", times(see("mlp.hidden", units), block.down))
    return see("residual", middle + out)


def dense_pattern(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """(H, T, T)"""
    scores = query @ key.transpose(-1, -2) * scaling
    positions = torch.arange(query.shape[1])
    future = positions[:, None] < positions
    return torch.where(future, -math.inf, scores).softmax(-1)


def low_rank_pattern(
    config: Any, block: PlainBlock, query: Tensor, key: Tensor, see: See
) -> Tensor:
    """(H, T, T): near tokens directly, far tokens through the slots."""
    heads, length, _ = query.shape
    write = key.new_zeros(heads, length, 0)
    if block.write is not None:
        content = config.projection == "content"
        write = (key @ block.write if content else block.write[:, :length]).softmax(-1)
        write = see("attention.slots.write", write)
    slots = write.shape[-1]
    reads, nears, totals = [], [], []
    for t in range(length):
        far = max(0, (t // config.window - 1) * config.window)
        total = write[:, :far].sum(1)  # (H, K)
        near = (key[:, far : t + 1] @ query[:, t, :, None])[..., 0] * block.scaling
        if far:
            divisor = torch.where(total > 0, total, 1)
            held = write[:, :far].transpose(-1, -2) @ key[:, :far] / divisor[..., None]
            on_slots = (held @ query[:, t, :, None])[..., 0] * block.scaling + total.log()
            both = torch.cat([on_slots, near], dim=-1).softmax(-1)
            read, near = both.split([slots, t + 1 - far], dim=-1)
        else:
            divisor, read, near = torch.ones_like(total), torch.zeros_like(total), near.softmax(-1)
        reads.append(read)
        totals.append(divisor)
        nears.append(nn.functional.pad(near, (far, length - t - 1)))
    read = torch.stack(reads, dim=1)  # (H, T, K)
    if slots:
        read = see("attention.slots.read", read)
    shares = read / torch.stack(totals, dim=1) @ write.transpose(-1, -2)
    blocks = torch.arange(length) // config.window
    return torch.stack(nears, dim=1) + shares * (blocks[:, None] - blocks > 1)


def turned(heads: Tensor, theta: float) -> Tensor:
    """(H, T, D) with features i and i + D/2 rotated by position · theta^(-2i/D)."""
    half = heads.shape[-1] // 2
    speeds = theta ** (-torch.arange(half) / half)
    angles = (torch.arange(heads.shape[1])[:, None] * speeds).to(heads)
    first, second = heads.split(half, dim=-1)
    return torch.cat(
        [
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        ],
        dim=-1,
    )


def embedding(model: Any, ids: Tensor) -> Tensor:
    if model.config.model_type == "llama":
        return model.model.embed_tokens.weight[ids]
    if model.config.model_type == "gpt2":
        return model.transformer.wte.weight[ids] + model.transformer.wpe.weight[: len(ids)]
    return model.model.embed_tokens.weight[ids] + model.model.embed_positions.weight[: len(ids)]


def plain_block(model: Any, layer: int) -> PlainBlock:
    if model.config.model_type == "gpt2":
        return gpt2_block(model.transformer.h[layer], layer)
    if model.config.model_type == "lumenspark":
        return lumenspark_block(model.model.layers[layer])
    return llama_block(model, model.model.layers[layer])


def llama_block(model: Any, block: Any) -> PlainBlock:
    """Also Lumiére's, without rotary positions."""
    attention, mlp = block.self_attn, block.mlp
    query = affine(attention.q_proj)
    rope = getattr(model.config, "rope_parameters", None)
    return PlainBlock(
        first_norm=block.input_layernorm,
        query=query,
        key=affine(attention.k_proj),
        value=affine(attention.v_proj),
        exit=affine(attention.o_proj),
        second_norm=block.post_attention_layernorm,
        gate=affine(mlp.gate_proj),
        up=affine(mlp.up_proj),
        down=affine(mlp.down_proj),
        activation=lambda x: x / (1 + torch.exp(-x)),
        scaling=(query[0].shape[1] // model.config.num_attention_heads) ** -0.5,
        rope_theta=rope["rope_theta"] if rope else None,
    )


def lumenspark_block(block: Any) -> PlainBlock:
    attention, mlp = block.attention, block.feed_forward
    query = affine(attention.q_proj)
    return PlainBlock(
        first_norm=block.attention_norm,
        query=query,
        key=affine(attention.k_proj),
        value=affine(attention.v_proj),
        exit=scaled(affine(attention.o_proj), block.attention_scale.scale),
        second_norm=block.feed_forward_norm,
        gate=None,
        up=affine(mlp.up_proj),
        down=scaled(affine(mlp.down_proj), block.feed_forward_scale.scale),
        activation=lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
        scaling=(query[0].shape[1] // attention.config.heads) ** -0.5,
        write=getattr(attention, "write", None),
    )


def gpt2_block(block: Any, layer: int) -> PlainBlock:
    matrix, bias = affine(block.attn.c_attn)
    query, key, value = zip(matrix.chunk(3, dim=1), bias.chunk(3), strict=True)
    return PlainBlock(
        first_norm=block.ln_1,
        query=query,
        key=key,
        value=value,
        exit=affine(block.attn.c_proj),
        second_norm=block.ln_2,
        gate=None,
        up=affine(block.mlp.c_fc),
        down=affine(block.mlp.c_proj),
        activation=lambda x: (
            x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
        scaling=8**-0.5 / (layer + 1),
    )


def affine(layer: nn.Module) -> Affine:
    if isinstance(layer, LowRankLinear):
        return (layer.U.weight @ layer.V.weight).T, 0 if layer.U.bias is None else layer.U.bias
    matrix = layer.weight if isinstance(layer, Conv1D) else layer.weight.T
    return matrix, 0 if layer.bias is None else layer.bias


def scaled(layer: Affine, factors: Tensor) -> Affine:
    return layer[0] * factors, layer[1] * factors


def times(hidden: Tensor, layer: Affine) -> Tensor:
    return hidden @ layer[0] + layer[1]


def by_head(flat: Tensor, heads: int) -> Tensor:
    """(T, H·D) to (H, T, D)."""
    return flat.unflatten(-1, (heads, -1)).transpose(0, 1)


def norm(layer: Any, hidden: Tensor) -> Tensor:
    """LayerNorm if there is a bias, else RMSNorm."""
    eps = layer.eps if hasattr(layer, "eps") else layer.variance_epsilon
    shift = getattr(layer, "bias", None)
    if shift is not None:
        hidden = hidden - hidden.mean(-1, keepdim=True)
    size = torch.sqrt((hidden**2).mean(-1, keepdim=True) + eps)
    return hidden / size * layer.weight + (0 if shift is None else shift)
