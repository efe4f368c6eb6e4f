"""Lumiére written down once more in plain torch: one row of tokens, no cache, no mask."""

import math

import torch
from torch import Tensor

from lumenspark.models import LumiereForCausalLM


def fill_with_noise(model: LumiereForCausalLM, seed: int = 0) -> LumiereForCausalLM:
    """Weights that make every part of the model matter and every prediction differ."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=noise))
    return model


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


def plain_greedy(model: LumiereForCausalLM, prompt: list[int], new: int) -> list[int]:
    """Prompt and ``new`` likeliest tokens. A full window goes on with its newest half."""
    context = model.config.max_position_embeddings
    text, window = list(prompt), list(prompt)
    for _ in range(new):
        if len(window) > context:
            window = window[-(context // 2) :]
        with torch.no_grad():
            likeliest = int(plain_logits(model, window)[-1].argmax())
        text.append(likeliest)
        window.append(likeliest)
    return text
