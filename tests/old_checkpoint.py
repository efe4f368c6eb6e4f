"""Checkpoints as lumenspark 0.1 wrote them, and its forward pass in plain torch.

Both are written from the description of that package, not with today's model.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SIZES = {
    "seq_length": 24,
    "vocab_size": 300,
    "embed_dim": 32,
    "depth": 2,
    "heads": 4,
    "dropout": 0.1,
    "k": 8,  # which had no effect
    "rank": 6,
}
# What a config.json held besides, where transformers wrote it.
FROM_TRANSFORMERS = {
    "architectures": ["LumensparkModel"],
    "model_type": "lumenspark",
    "torch_dtype": "float32",
    "transformers_version": "4.45.2",
}


def old_tensors(**changes: Any) -> dict[str, Tensor]:
    """Random ones, large enough for every part to show in the logits."""
    size = SIZES | changes
    width, rank, vocabulary = size["embed_dim"], size["rank"], size["vocab_size"]
    random = torch.Generator().manual_seed(7)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) * 1.5 / math.sqrt(shape[-1])

    def vector(length: int) -> Tensor:
        return torch.randn(length, generator=random)

    tensors = {
        "token_embedding.weight": vector(vocabulary * width).view(vocabulary, width),
        "position_embedding.weight": vector(size["seq_length"] * width).view(-1, width),
        "final_norm.weight": vector(width),
        "final_norm.bias": vector(width),
        "fc_out.weight": matrix(vocabulary, width),
        "fc_out.bias": vector(vocabulary),
    }
    for layer in (f"layers.{index}" for index in range(size["depth"])):
        for norm in ("norm1", "norm2"):
            tensors[f"{layer}.{norm}.weight"] = vector(width)
            tensors[f"{layer}.{norm}.bias"] = vector(width)
        for linear in ("q_proj", "k_proj", "v_proj", "output_transform"):
            tensors[f"{layer}.attn.{linear}.weight"] = matrix(width, width)
            tensors[f"{layer}.attn.{linear}.bias"] = vector(width)
        tensors[f"{layer}.ffn.0.U.weight"] = matrix(rank, width)
        tensors[f"{layer}.ffn.0.V.weight"] = matrix(4 * width, rank)
        tensors[f"{layer}.ffn.3.U.weight"] = matrix(rank, 4 * width)
        tensors[f"{layer}.ffn.3.V.weight"] = matrix(width, rank)
        tensors[f"{layer}.layer_scale_attn"] = vector(width)
        tensors[f"{layer}.layer_scale_ffn"] = vector(width)
    return tensors


def write_old(
    folder: Path,
    tensors: dict[str, Tensor] | None = None,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Tensor]:
    """A checkpoint with eight keys in its config.json, and ``more``. Returns its tensors."""
    tensors = old_tensors(**changes) if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SIZES | changes | (more or {})))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def old_logits(tensors: dict[str, Tensor], ids: Tensor, heads: int = SIZES["heads"]) -> Tensor:
    """The logits (T, V) of token ids (T,), in float32."""
    t = {name: tensor.float() for name, tensor in tensors.items()}
    length = len(ids)
    future = torch.ones(length, length).triu(1).bool()

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        normal = centred / (variance + 1e-5).sqrt()
        return normal * t[f"{name}.weight"] + t[f"{name}.bias"]

    def low_rank(name: str, x: Tensor) -> Tensor:
        return x @ t[f"{name}.U.weight"].T @ t[f"{name}.V.weight"].T

    def attention(name: str, x: Tensor) -> Tensor:
        query, key, value = (
            linear(f"{name}.{part}", x).view(length, heads, -1).transpose(0, 1)
            for part in ("q_proj", "k_proj", "v_proj")
        )
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(future, -math.inf)
        weights = (scores - scores.max(-1, keepdim=True).values).exp()
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
        mixed = (weights @ value).transpose(0, 1).reshape(length, -1)
        return linear(f"{name}.output_transform", mixed)

    def feed_forward(name: str, x: Tensor) -> Tensor:
        inner = low_rank(f"{name}.0", x)
        gelu = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        return low_rank(f"{name}.3", gelu)

    x = t["token_embedding.weight"][ids] + t["position_embedding.weight"][:length]
    layer, index = "layers.0", 0
    while f"{layer}.norm1.weight" in t:
        x = x + t[f"{layer}.layer_scale_attn"] * attention(
            f"{layer}.attn", norm(f"{layer}.norm1", x)
        )
        x = x + t[f"{layer}.layer_scale_ffn"] * feed_forward(
            f"{layer}.ffn", norm(f"{layer}.norm2", x)
        )
        index += 1
        layer = f"layers.{index}"
    return linear("fc_out", norm("final_norm", x))
