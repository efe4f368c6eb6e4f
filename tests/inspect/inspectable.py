"""A small model of each kind that can be inspected: two blocks, 300 tokens, a context of 16."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from small_models import fill_with_noise, new_model, small_config
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from lumenspark.models.lowrank_linear import LowRankLinear

# Lumenspark's window of 2 tokens makes a row of 11 read its slots from the fifth token on.
LUMENSPARKS: dict[str, dict[str, Any]] = {
    "content": {},
    "position": {"projection": "position"},
    "window alone": {"k": 0},
    "biased": {"attention_bias": True, "head_bias": True},
    "dense": {"k": None, "attention_bias": True},
}
LOW_RANK = ["content", "position", "window alone", "biased"]
WITH_SLOTS = ["content", "position", "biased"]
DENSE = ["lumiere", "dense", "gpt2", "llama"]
KINDS = ["lumiere", *LUMENSPARKS, "gpt2", "llama"]

# Marks for tests of the fixture ``model``.
one_of_each_sort = pytest.mark.parametrize("kind", ["lumiere", "content", "dense", "gpt2", "llama"])
every_kind = pytest.mark.parametrize("kind", KINDS)
low_rank_kinds = pytest.mark.parametrize("kind", LOW_RANK)
slot_kinds = pytest.mark.parametrize("kind", WITH_SLOTS)
dense_kinds = pytest.mark.parametrize("kind", DENSE)


def make_model(kind: str) -> Any:
    """In evaluation mode, with weights large enough for every part to matter."""
    if kind == "gpt2":
        model = GPT2LMHeadModel(gpt2_config())
    elif kind == "llama":
        model = LlamaForCausalLM(llama_config())
    elif kind == "lumiere":
        model = new_model(small_config("lumiere"))
    else:
        model = new_model(small_config("lumenspark", **LUMENSPARKS[kind]))
    return fill_with_noise(model).eval()


def gpt2_config() -> GPT2Config:
    return GPT2Config(
        vocab_size=300,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=40,
        scale_attn_by_inverse_layer_idx=True,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=2,
    )


def llama_config() -> LlamaConfig:
    """Two queries share a key, and the heads together are wider than the stream."""
    return LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        attention_bias=True,
        mlp_bias=True,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=2,
    )


def attention_output(model: Any, layer: int) -> nn.Module:
    """The linear layer from the heads' mixed values to the residual stream."""
    if hasattr(model, "transformer"):
        return model.transformer.h[layer].attn.c_proj
    block = model.model.layers[layer]
    return block.self_attn.o_proj if hasattr(block, "self_attn") else block.attention.o_proj


def without_head(model: Any, layer: int, head: int) -> Any:
    """A copy whose output projection ignores one head."""
    copy = deepcopy(model)
    exit_ = attention_output(copy, layer)
    size = model.config.head_dim if hasattr(model.config, "head_dim") else 8
    own = slice(size * head, size * (head + 1))
    with torch.no_grad():
        if isinstance(exit_, Conv1D):  # (in, out)
            exit_.weight[own] = 0
        else:
            first = exit_.V if isinstance(exit_, LowRankLinear) else exit_
            first.weight[:, own] = 0
    return copy


def blocks_of(model: Any) -> nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def hook_count(model: nn.Module) -> int:
    """The number of hooks of any sort on the model and its submodules."""
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if "_hooks" in name and isinstance(hooks, dict)
    )


def assert_near(actual: Tensor, expected: Tensor, name: str = "", tolerance: float = 1e-4) -> None:
    """Within ``tolerance`` times the largest expected magnitude."""
    allowed = tolerance * float(expected.detach().abs().max()) + 1e-7
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=allowed, msg=lambda text: f"{name}: {text}"
    )


def logits_of(model: Any, ids: Tensor, **arguments: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, **arguments).logits
