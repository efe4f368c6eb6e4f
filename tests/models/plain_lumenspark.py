"""Lumenspark written down once more in plain torch: one row of tokens, no cache, no mask."""

import math

import torch
from torch import Tensor

from lumenspark.models import LumensparkConfig, LumensparkForCausalLM

Weights = dict[str, Tensor]


def plain_logits(model: LumensparkForCausalLM, ids: Tensor | list[int]) -> Tensor:
    """The logits (T, V) of one row of T token ids; differentiable in the model's weights."""
    weights = dict(model.named_parameters())
    config = model.config
    ids = torch.as_tensor(ids)
    table = weights["model.embed_tokens.weight"]
    hidden = table[ids] + weights["model.embed_positions.weight"][: len(ids)]
    for index in range(config.depth):
        block = {
            name.removeprefix(f"model.layers.{index}."): weight for name, weight in weights.items()
        }
        normed = layer_norm(hidden, block, "attention_norm", config.layer_norm_eps)
        hidden = hidden + attention(normed, block, config) * block["attention_scale.scale"]
        normed = layer_norm(hidden, block, "feed_forward_norm", config.layer_norm_eps)
        units = linear(normed, block, "feed_forward.up_proj")
        units = units * (1 + torch.erf(units / math.sqrt(2))) / 2
        transformed = linear(units, block, "feed_forward.down_proj")
        hidden = hidden + transformed * block["feed_forward_scale.scale"]
    hidden = layer_norm(hidden, weights, "model.norm", config.layer_norm_eps)
    logits = hidden @ weights.get("lm_head.weight", table).T
    return logits + weights.get("lm_head.bias", 0)


def layer_norm(hidden: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    centred = hidden - hidden.mean(-1, keepdim=True)
    deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(hidden: Tensor, weights: Weights, name: str) -> Tensor:
    """Through the product of the two factors, or the dense matrix where there is one."""
    if f"{name}.weight" in weights:
        return hidden @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
    product = weights[f"{name}.U.weight"] @ weights[f"{name}.V.weight"]
    return hidden @ product.T + weights.get(f"{name}.U.bias", 0)


def attention(hidden: Tensor, block: Weights, config: LumensparkConfig) -> Tensor:
    """One query after the other: its block and the one before it, and slots for what lies back."""
    query, key, value = (
        linear(hidden, block, f"attention.{name}_proj").unflatten(-1, (config.heads, -1))
        for name in "qkv"
    )
    query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))  # (H, T, D)
    length = key.shape[1]
    window = length if config.k is None else config.window
    if not config.k:
        phi = key.new_zeros(config.heads, length, 0)
    elif config.projection == "content":
        phi = torch.softmax(key @ block["attention.write"], dim=-1)
    else:
        phi = torch.softmax(block["attention.write"][:, :length], dim=-1)
    outputs = []
    for t in range(length):
        far = slice(0, max(0, (t // window - 1) * window))
        near = slice(far.stop, t + 1)
        keys, values, log_z = key[:, near], value[:, near], key.new_zeros(config.heads, 0)
        if far.stop:
            z = phi[:, far].sum(1)  # (H, K)
            keys = torch.cat([phi[:, far].mT @ key[:, far] / z[..., None], keys], dim=1)
            values = torch.cat([phi[:, far].mT @ value[:, far] / z[..., None], values], dim=1)
            log_z = z.log()
        scores = (keys * query[:, t, None]).sum(-1) / math.sqrt(config.head_dim)
        scores = torch.cat([scores[:, : log_z.shape[1]] + log_z, scores[:, log_z.shape[1] :]], -1)
        outputs.append((torch.softmax(scores, dim=-1)[..., None] * values).sum(1))
    attended = torch.stack(outputs)  # (T, H, D)
    return linear(attended.flatten(1), block, "attention.o_proj")
