"""Speed: operations per token against counts by hand, and a trainer that is left as it was."""

from pathlib import Path

import pytest
import torch
from command_line import SMALL
from torch import nn

from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.training.mfu import Throughput, flops_per_token, measure_throughput
from lumenspark.training.setup import set_up
from lumenspark.training.trainer import Trainer


def test_operations_of_lumiere_1m_as_counted_by_hand() -> None:
    block = 4 * 128 * 128 + 3 * 128 * 168  # attention's four matrices, the gated unit's three
    weights = 4 * block + 128 * 4096  # and the output layer; embeddings are looked up
    attention = 4 * 2 * 64 * 128  # queries by keys and weights by values, in four blocks
    by_hand = 3 * 2 * (weights + attention)  # forward, and two products backward for each
    assert flops_per_token(LumiereForCausalLM(LumiereConfig()), context=64) == by_hand


def test_low_rank_layers_count_by_their_factors() -> None:
    settings = {"seq_length": 32, "embed_dim": 48, "depth": 2, "heads": 2, "k": None}
    small = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}
    model = LumensparkForCausalLM(LumensparkConfig(rank=4, **settings, **small))
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    dense = 2 * (4 * 48 * 48 + 2 * 48 * 4 * 48) + 48 * 300
    assert weights < dense
    assert flops_per_token(model, context=32) == 6 * weights + 12 * 2 * 32 * 48


def test_counting_leaves_the_model_alone() -> None:
    model = LumiereForCausalLM(LumiereConfig()).eval()
    model.set_attn_implementation("sdpa")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flops_per_token(model, context=16)
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_share_of_the_peak() -> None:
    speed = Throughput(tokens_per_second=1000.0, flops_per_token=5e6, peak=2e10)
    assert speed.mfu == pytest.approx(0.25)


@pytest.mark.slow
def test_a_trainer_is_measured_and_left_as_it_was(text_folder: Path) -> None:
    recipe = with_overrides(load_recipe("lumiere-tiny"), SMALL | {"data": str(text_folder)})
    setup = set_up(recipe, Reporter())
    trainer = Trainer(setup, Reporter())
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    speed = measure_throughput(trainer, rounds=2, steps=3)
    state = setup.model.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    assert not any(optimizer.state for optimizer in trainer.optimizers)
    assert speed.tokens_per_second > 0
    assert speed.flops_per_token == flops_per_token(setup.model, recipe.model.context)
    # So small a model is far from what one large product reaches.
    assert 0 < speed.mfu < 1
