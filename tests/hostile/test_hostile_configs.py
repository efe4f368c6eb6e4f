"""Configs from outside: whatever a number in them is, a model's or one sentence comes of it."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from lumenspark.errors import quoted
from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)

SMALL: dict[Any, dict[str, Any]] = {
    LumiereConfig: {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 8,
    },
    LumensparkConfig: {
        "vocab_size": 50,
        "embed_dim": 16,
        "depth": 1,
        "heads": 2,
        "seq_length": 8,
        "k": 2,
        "rank": 4,
        "window": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}
COUNTS = {
    LumiereConfig: [*SMALL[LumiereConfig]],
    LumensparkConfig: [
        "vocab_size",
        "embed_dim",
        "depth",
        "heads",
        "seq_length",
        "window",
        "hidden_size",  # transformers' names of them
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ],
}
NO_COUNTS = [
    0,
    -1,
    -(10**30),
    10**30,
    10**5000,
    2.5,
    2.0,
    math.nan,
    math.inf,
    True,
    None,
    "8",
    "x" * 10_000,
    [8],
    {"8": 8},
]
FLOATS = {
    LumiereConfig: ["dropout", "rms_norm_eps", "initializer_range"],
    LumensparkConfig: ["dropout", "layer_norm_eps", "initializer_range"],
}
NO_FLOATS = [-0.1, -math.inf, math.inf, math.nan, 10**400, True, None, "0.1", [0.1], {}]
OTHERS: dict[Any, dict[str, list[Any]]] = {
    LumiereConfig: {
        "module_ranks": [
            [],
            "model.layers.0.self_attn.q_proj",
            {"model.layers.0.self_attn.q_proj": 0},
            {"model.layers.0.self_attn.q_proj": -3},
            {"model.layers.0.self_attn.q_proj": 2.5},
            {"model.layers.0.self_attn.q_proj": "4"},
            {"model.layers.0.self_attn.q_proj": True},
            {"x" * 10_000: "y" * 10_000},
        ],
        "dropout": [1.0, 1.5, 10**9],
        "hidden_size": [15],
        "intermediate_size": [11],
        "num_attention_heads": [3, 10**12],
        "tie_word_embeddings": ["yes", 1, None],
    },
    LumensparkConfig: {
        "module_ranks": [
            [],
            {"model.layers.0.attention.q_proj": 0},
            {"model.layers.0.attention.q_proj": 2.5},
            {"model.layers.1.attention.q_proj": 4},  # there is one layer
            {"model.layers.0.attention.q_projection": 4},
            {"model.layers.99999999999999999999.attention.q_proj": 4},
            {"": 4},
            {"x" * 10_000: 4},
        ],
        "dropout": [1.0, 1.5],
        "embed_dim": [15, 10**30 + 1],
        "heads": [3, 10**12],
        "k": [-1, 10**12, 10**5000, 2.5, math.nan, "2", True, [2]],
        "rank": [0, -1, 8, 10**12, 2.5, "4", True],
        "window": [10**6, 10**12],
        "projection": ["sideways", "", None, 3, ["content"], "x" * 10_000],
        "layer_scale": [math.nan, math.inf, "0.1", None, True],
        "attention_bias": ["yes", 1, None],
    },
}
TOKENS = ["bos_token_id", "eos_token_id", "pad_token_id"]
NO_TOKENS = [-1, 2.5, math.nan, "0", True, {}, 10**5000]


def cases() -> list[Any]:
    listed = []
    for kind in SMALL:
        listed += [(kind, *case) for case in itertools.product(COUNTS[kind], NO_COUNTS)]
        listed += [(kind, *case) for case in itertools.product(FLOATS[kind], NO_FLOATS)]
        listed += [(kind, *case) for case in itertools.product(TOKENS, NO_TOKENS)]
        listed += [(kind, name, v) for name, values in OTHERS[kind].items() for v in values]
        listed += [(kind, "eos_token_id", [-1]), (kind, "eos_token_id", ["0"])]
    return listed


def assert_refused(make: Callable[[], Any], name: str, value: Any) -> None:
    """By a ValueError of one bounded sentence."""
    try:
        made = make()
    except ValueError as error:
        made, message = None, str(error)
    assert made is None, f"{name}={quoted(value)} made a config"
    assert "\n" not in message
    assert len(message) < 400


CASES = cases()


def test_there_are_many() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("kind", list(SMALL))
def test_no_value_but_a_sensible_one_makes_a_config(kind: Any) -> None:
    for of, name, value in CASES:
        if of is kind:
            settings = SMALL[kind] | {name: value}
            assert_refused(lambda settings=settings: kind(**settings), name, value)


@pytest.mark.parametrize("kind", list(SMALL))
def test_nor_does_a_file(kind: Any, tmp_path: Path) -> None:
    whole = kind(**SMALL[kind]).to_dict()
    ours = kind.attribute_map
    for of, name, value in CASES:
        if of is not kind or (isinstance(value, int) and abs(value) >= 10**4000):
            continue  # Python reads no number of so many digits
        one_number = {key for key in whole if ours.get(key, key) == ours.get(name, name)}
        content = {key: whole[key] for key in whole.keys() - one_number} | {name: value}
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert_refused(lambda: AutoConfig.from_pretrained(tmp_path), name, value)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (LumiereConfig, {"dropout": 0}),  # as JSON's writers shorten 0.0
        (LumiereConfig, {"eos_token_id": [1, 2], "pad_token_id": None}),
        (LumiereConfig, {"module_ranks": {"model.layers.0.self_attn.q_proj": 4}}),
        (LumensparkConfig, {"layer_scale": 0, "dropout": 0}),
        (LumensparkConfig, {"layer_scale": -1.0}),
        (LumensparkConfig, {"k": 0, "rank": None}),
        (LumensparkConfig, {"k": None, "window": 64}),
        (LumensparkConfig, {"k": 64}),
        (LumensparkConfig, {"module_ranks": {"model.layers.0.attention.q_proj": None}}),
    ],
    ids=str,
)
def test_what_is_unusual_but_sensible_makes_a_model(kind: Any, changes: dict[str, Any]) -> None:
    model_class: Any = LumiereForCausalLM if kind is LumiereConfig else LumensparkForCausalLM
    model = model_class(kind(**SMALL[kind] | changes))
    assert torch.isfinite(model(torch.tensor([[3, 4, 5, 6, 7]])).logits).all()


@pytest.mark.parametrize("kind", list(SMALL))
def test_a_config_that_is_there_refuses_values_too(kind: Any) -> None:
    config = kind(**SMALL[kind])
    with pytest.raises(ValueError, match="dropout='high' must be of type float"):
        config.dropout = "high"


def test_a_rank_over_what_saves_anything_is_refused_by_the_model() -> None:
    for kind, name, model_class in (
        (LumiereConfig, "model.layers.0.self_attn.q_proj", LumiereForCausalLM),
        (LumensparkConfig, "model.layers.0.attention.q_proj", LumensparkForCausalLM),
    ):
        config: Any = kind(**SMALL[kind] | {"module_ranks": {name: 10**12}})
        with pytest.raises(ValueError, match="rank 1000000000000 for a layer from 16 to 16"):
            model_class(config)
