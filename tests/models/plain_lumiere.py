"""Lumiére written down once more in plain torch: one row of tokens, no cache, no mask."""

import math

import torch
from torch import Tensor

from lumenspark.models import LumiereForCausalLM


def plain_logits(model: LumiereForCausalLM, ids: Tensor | list[int]) -> Tensor:
    """The logits (T, V) of one row of T token ids; differentiable in the model's weights."""
    weights = dict(model.named_parameters())
    config = model.config
    ids = torch.as_tensor(ids)
    table = weights["model.embed_tokens.weight"]
    hidden = table[ids] + weights["model.embed_positions.weight"][: len(ids)]
    for index in range(config.num_hidden_layers):
        block = {
            name.removeprefix(f"model.layers.{index}."): weight for name, weight in weights.items()
        }
        normed = rms_norm(hidden, block["input_layernorm.weight"], config.rms_norm_eps)
        hidden = hidden + attention(normed, block, config.num_attention_heads)
        normed = rms_norm(hidden, block["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = normed @ block["mlp.gate_proj.weight"].T
        up = normed @ block["mlp.up_proj.weight"].T
        hidden = hidden + (gate / (1 + torch.exp(-gate)) * up) @ block["mlp.down_proj.weight"].T
    return rms_norm(hidden, weights["model.norm.weight"], config.rms_norm_eps) @ table.T


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return hidden / torch.sqrt((hidden**2).mean(-1, keepdim=True) + eps) * weight


def attention(hidden: Tensor, block: dict[str, Tensor], heads: int) -> Tensor:
    query, key, value = (
        (hidden @ block[f"self_attn.{name}_proj.weight"].T).chunk(heads, dim=-1) for name in "qkv"
    )
    outputs = []
    for q, k, v in zip(query, key, value, strict=True):
        scores = q @ k.T / math.sqrt(q.shape[-1])
        future = torch.arange(len(q))[:, None] < torch.arange(len(q))
        scores = torch.where(future, -torch.inf, scores)
        outputs.append(torch.softmax(scores, dim=-1) @ v)
    return torch.cat(outputs, dim=-1) @ block["self_attn.o_proj.weight"].T
