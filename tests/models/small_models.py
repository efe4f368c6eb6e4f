"""The small models that the tests of models/ run on, and what plain torch makes of them."""

from typing import Any

import plain_lumenspark
import plain_lumiere
import pytest
import torch
from torch import Tensor

from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)

Config = LumiereConfig | LumensparkConfig
Model = LumiereForCausalLM | LumensparkForCausalLM

# Marks for tests of the fixtures ``config`` and ``model``.
both_families = pytest.mark.parametrize("family", ["lumiere", "lumenspark"])
ATTENTIONS: dict[str, dict[str, Any]] = {
    "content": {},
    "position": {"projection": "position"},
    "window alone": {"k": 0},
    "dense": {"k": None},
}
every_attention = pytest.mark.parametrize("changes", ATTENTIONS.values(), ids=ATTENTIONS)
low_rank_attention = pytest.mark.parametrize(
    "changes", list(ATTENTIONS.values())[:3], ids=list(ATTENTIONS)[:3]
)


def small_config(family: str, **changes: Any) -> Config:
    """16 positions; no end token, so that generation makes as many tokens as it was asked for.

    Lumenspark's window of 2 tokens makes 8 blocks: from the fifth token on it reads its slots.
    """
    if family == "lumiere":
        settings = {
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 16,
            "eos_token_id": None,
        }
        return LumiereConfig(**settings | changes)
    settings = {
        "vocab_size": 300,
        "embed_dim": 32,
        "depth": 2,
        "heads": 4,
        "seq_length": 16,
        "k": 3,
        "rank": 8,
        "window": 2,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 2,
    }
    return LumensparkConfig(**settings | changes)


def new_model(config: Config) -> Model:
    if isinstance(config, LumiereConfig):
        return LumiereForCausalLM(config)
    return LumensparkForCausalLM(config)


def fill_with_noise(model: Model, seed: int = 0) -> Model:
    """Weights that make every part of the model matter and every prediction differ."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if name.endswith(("norm.weight", "scale")) else 0.0
            weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=noise))
    return model


def plain_logits(model: Model, ids: Tensor | list[int]) -> Tensor:
    """The logits (T, V) of one row of T token ids; differentiable in the model's weights."""
    if isinstance(model, LumiereForCausalLM):
        return plain_lumiere.plain_logits(model, ids)
    return plain_lumenspark.plain_logits(model, ids)


def plain_greedy(model: Model, prompt: list[int], new: int) -> list[int]:
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


def random_rows(*lengths: int) -> list[list[int]]:
    """Token ids, none of them special."""
    noise = torch.Generator().manual_seed(3)
    return [torch.randint(3, 300, (n,), generator=noise).tolist() for n in lengths]


def left_padded(rows: list[list[int]]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[2] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
