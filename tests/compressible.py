"""The models that are compressed in tests: one for each kind of linear layer and of head."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)
from lumenspark.models.lowrank_linear import LowRankLinear


def llama(**changes: Any) -> LlamaForCausalLM:
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "attention_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes))


def gpt2() -> GPT2LMHeadModel:
    settings = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, bos_token_id=0, eos_token_id=1, **settings))


def lumiere() -> LumiereForCausalLM:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 96}
    return LumiereForCausalLM(LumiereConfig(vocab_size=300, max_position_embeddings=32, **sizes))


def lumenspark(**changes: Any) -> LumensparkForCausalLM:
    settings = {"embed_dim": 32, "depth": 2, "heads": 4, "seq_length": 32, "k": 3, "rank": 12}
    tokens = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return LumensparkForCausalLM(LumensparkConfig(**settings | tokens | {"window": 4} | changes))


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama with a tied head": partial(llama, tie_word_embeddings=True),
    "gpt2": gpt2,
    "lumiere": lumiere,
    "lumenspark": lumenspark,
    "lumenspark, dense": partial(lumenspark, rank=None, k=None),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def made(family: str) -> Any:
    """Noise for weights: a fresh model's layers are all alike, and some of them are zero."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=noise))
    return model.eval()


def weight_of(layer: Any) -> Tensor:
    """(out, in) in float64."""
    if isinstance(layer, LowRankLinear):
        layer = layer.to_dense()
    weight = layer.weight.detach().double()
    return weight if isinstance(layer, nn.Linear) else weight.T  # Conv1D


def skewed_windows() -> Tensor:
    """(24, 17) token ids, of which some are far more frequent than others."""
    noise = torch.Generator().manual_seed(1)
    return (torch.rand(24, 17, generator=noise) ** 3 * 297).long() + 3
