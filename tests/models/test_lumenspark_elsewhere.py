"""Lumenspark's low-rank layers in the hands of what knows nothing of them.

What it shares with Lumiére is tested in ``test_lumiere_elsewhere.py``, with both.
"""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import every_attention
from torch import Tensor

from lumenspark.models import LumensparkForCausalLM
from lumenspark.models.lowrank_linear import LowRankLinear


@pytest.fixture
def family() -> str:
    return "lumenspark"


@every_attention
def test_lora_finds_the_factors_by_name(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """And leaves the slots' weights, which are no layer, as they are."""
    slots = {name: weight.clone() for name, weight in model.named_parameters() if "write" in name}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["U", "V"]))
    trainable = {name: w for name, w in adapted.named_parameters() if w.requires_grad}
    layers = [f"attention.{name}_proj" for name in "qkvo"]
    layers += ["feed_forward.up_proj", "feed_forward.down_proj"]
    assert set(trainable) == {
        f"base_model.model.model.layers.{block}.{layer}.{factor}.lora_{part}.default.weight"
        for block in (0, 1)
        for layer in layers
        for factor in "UV"
        for part in "AB"
    }
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    logits = adapted(ids).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-3, atol=1e-3)
    for name, weight in slots.items():
        assert torch.equal(merged.get_parameter(name), weight)


def test_dense_layers_in_the_place_of_low_rank_ones_compute_the_same(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    expected = model(ids).logits
    dense = copy.deepcopy(model)
    for name, layer in list(dense.named_modules()):
        if isinstance(layer, LowRankLinear):
            dense.set_submodule(name, layer.to_dense())
    assert not any(isinstance(module, LowRankLinear) for module in dense.modules())
    torch.testing.assert_close(dense(ids).logits, expected, rtol=1e-4, atol=1e-4)


@every_attention
@pytest.mark.slow
def test_compiled_it_computes_the_same(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """As graphs that are run as they are: what makes kernels of them is not the subject."""
    model.config.dropout = 0.0
    model.train()
    expected = model(ids, labels=ids)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(expected.loss, weights, allow_unused=True)
    output = torch.compile(model, backend="aot_eager")(ids, labels=ids)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    again = torch.autograd.grad(output.loss, weights, allow_unused=True)
    for gradient, wanted in zip(again, gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)
