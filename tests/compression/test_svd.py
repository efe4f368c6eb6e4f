"""Models made low-rank: the decomposition, what a text shows, the choice of ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from compressible import every_family, made, skewed_windows, weight_of
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from lumenspark.compression.activations import Activations
from lumenspark.compression.rank_allocation import RankOptions, ranks_by_size
from lumenspark.compression.svd import collect_activations, compress, linear_layers
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.models.lowrank_linear import LowRankLinear


@pytest.fixture
def windows() -> Tensor:
    return skewed_windows()


@pytest.fixture
def ids() -> Tensor:
    return skewed_windows()[:3, :11]


def inputs_of(model: Any, windows: Tensor) -> dict[str, Tensor]:
    """What each layer reads: (tokens, in) in float64."""
    found: dict[str, Tensor] = {}
    for name, layer in linear_layers(model).items():

        def keep(layer: Any, inputs: Any, name: str = name) -> None:
            found[name] = inputs[0].detach().flatten(0, -2).double()

        hook = layer.register_forward_pre_hook(keep)
        model(windows[:, :-1])
        hook.remove()
    return found


# The decomposition


@every_family
def test_the_error_of_plain_svd_is_the_tail_of_the_spectrum(family: str) -> None:
    model = made(family)
    before = {name: weight_of(layer) for name, layer in linear_layers(model).items()}
    rows = compress(model, rank=5).layers
    assert [row.name for row in rows] == list(before)
    for row in rows:
        weight = before[row.name]
        singular = np.linalg.svd(weight.numpy(), compute_uv=False)
        tail = np.sqrt((singular[5:] ** 2).sum() / (singular**2).sum())
        now = weight_of(model.get_submodule(row.name))
        assert row.rank == 5
        assert row.error == pytest.approx(tail, abs=1e-6)
        assert float((weight - now).norm() / weight.norm()) == pytest.approx(tail, abs=1e-5)


@every_family
def test_whitening_makes_the_error_of_the_outputs_smaller(family: str, windows: Tensor) -> None:
    model, plain = made(family), made(family)
    inputs = inputs_of(model, windows)
    before = {name: weight_of(layer) for name, layer in linear_layers(model).items()}
    rows = compress(model, rank=5, activations=collect_activations(model, windows)).layers
    compress(plain, rank=5)

    def error(model: Any, name: str) -> float:
        difference = before[name] - weight_of(model.get_submodule(name))
        return float((inputs[name] @ difference.T).norm() / (inputs[name] @ before[name].T).norm())

    for row in rows:
        assert error(model, row.name) < error(plain, row.name)
        # The damping is in the reported error, too, and makes it a little larger.
        assert row.error == pytest.approx(error(model, row.name), abs=0.02)


@every_family
def test_a_layer_keeps_the_energy_that_was_asked_for_and_no_rank_more(family: str) -> None:
    model = made(family)
    spectra = {
        name: np.linalg.svd(weight_of(layer).numpy(), compute_uv=False) ** 2
        for name, layer in linear_layers(model).items()
    }
    rows = compress(model, energy=0.6).layers
    assert any(row.weights < row.weights_before for row in rows)
    for row in rows:
        kept = spectra[row.name].cumsum() / spectra[row.name].sum()
        needed = int((kept >= 0.6).argmax()) + 1
        if needed * (row.in_features + row.out_features) < row.weights_before:
            assert row.rank == needed
        else:
            assert row.weights == row.weights_before


@every_family
def test_all_energy_of_layers_that_were_low_rank_all_along(family: str, ids: Tensor) -> None:
    model = made(family)
    for layer in linear_layers(model).values():
        if isinstance(layer, LowRankLinear):
            layer.U.weight.data[:, 4:] = 0
        else:
            left, singular, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
            layer.weight.data.copy_((left[:, :4] * singular[:4]) @ right[:4])
    expected = model(ids).logits
    assert {row.rank for row in compress(model, energy=1.0).layers} == {4}
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-3, atol=1e-3)


def test_low_rank_layers_are_compressed_further(ids: Tensor) -> None:
    """The best rank 4 of the best rank 8 is the best rank 4."""
    twice, once = made("llama"), made("llama")
    compress(twice, rank=8)
    before = compress(twice, rank=4).layers
    compress(once, rank=4)
    assert {row.weights_before // (row.in_features + row.out_features) for row in before} == {8}
    for name, layer in linear_layers(once).items():
        again = weight_of(twice.get_submodule(name))
        torch.testing.assert_close(again, weight_of(layer), rtol=1e-4, atol=1e-5)
    assert set(twice.config.module_ranks.values()) == {4}


def test_a_text_that_spans_little_of_the_inputs_is_enough_to_be_finite(ids: Tensor) -> None:
    model = made("llama")
    same_token = torch.full((2, 9), 7)
    compress(model, params=0.5, activations=collect_activations(model, same_token))
    assert model(ids).logits.isfinite().all()


def test_bfloat16_stays(windows: Tensor, ids: Tensor) -> None:
    model = made("llama").to(torch.bfloat16)
    compress(model, params=0.7, activations=collect_activations(model, windows))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model(ids).logits.isfinite().all()


# What a text shows


def test_a_text_shows_what_a_layer_reads_and_how_much_the_loss_minds_its_output(
    windows: Tensor,
) -> None:
    model = made("llama").train()
    seen = collect_activations(model, windows)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    model.eval()
    inputs = inputs_of(model, windows)
    assert set(seen) == set(inputs)
    for name, layer in linear_layers(model).items():
        gram = inputs[name].T @ inputs[name] / len(inputs[name])
        torch.testing.assert_close(seen[name].gram, gram, rtol=1e-4, atol=1e-6)
        nudge = torch.zeros(24, 16, layer.out_features, requires_grad=True)
        hook = layer.register_forward_hook(lambda layer, inputs, output, n=nudge: output + n)
        logits = model(windows[:, :-1]).logits
        loss = functional.cross_entropy(logits.mT, windows[:, 1:], reduction="sum")
        (derivative,) = torch.autograd.grad(loss, nudge)
        hook.remove()
        assert seen[name].sensitivity == pytest.approx(float(derivative.square().mean()), rel=1e-3)


def test_a_frozen_model_can_be_observed(windows: Tensor) -> None:
    model = made("gpt2").requires_grad_(False)
    free = collect_activations(made("gpt2"), windows)
    for name, seen in collect_activations(model, windows).items():
        assert seen.sensitivity == pytest.approx(free[name].sensitivity, rel=1e-4)


# Which layers, and which ranks


def test_embeddings_heads_and_shared_layers_are_left_alone() -> None:
    model = made("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    names = set(linear_layers(model))
    assert "lm_head" not in names
    assert not any("mlp.up_proj" in name for name in names)
    assert len(names) == 2 * 6
    head = model.lm_head
    compress(model, rank=4)
    assert model.lm_head is head
    assert isinstance(model.model.embed_tokens, nn.Embedding)
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_biases_stay_as_they_were(family: str) -> None:
    model = made(family)
    layers = linear_layers(model)
    biases = {n: layer.bias.clone() for n, layer in layers.items() if layer.bias is not None}
    assert biases
    rows = compress(model, rank=4).layers
    for name, bias in biases.items():
        assert torch.equal(model.get_submodule(name).U.bias, bias)
    assert sum(row.weights for row in rows) == sum(
        4 * (row.in_features + row.out_features) for row in rows
    )


def test_a_rank_that_would_save_nothing_leaves_the_layer_dense() -> None:
    model = made("llama")
    rows = {row.name: row for row in compress(model, rank=12).layers}
    small = rows["model.layers.0.self_attn.k_proj"]  # 32 x 16: 12 · 48 > 512
    assert (small.rank, small.error, small.weights) == (None, 0.0, 512)
    assert type(model.get_submodule(small.name)) is nn.Linear
    assert small.name not in model.config.module_ranks
    assert rows["model.layers.0.mlp.up_proj"].rank == 12


@every_family
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("whitened", [True, False])
def test_the_share_of_the_weights_is_hit_and_counted_right(
    family: str, share: float, whitened: bool, windows: Tensor
) -> None:
    model = made(family)
    parameters = sum(weight.numel() for weight in model.parameters())
    activations = collect_activations(model, windows) if whitened else None
    done = compress(model, params=share, activations=activations)
    kept = sum(weight_count(model.get_submodule(row.name)) for row in done.layers)
    whole = sum(row.weights_before for row in done.layers)
    assert kept == sum(row.weights for row in done.layers)
    assert kept / whole == done.weight_ratio
    one_rank = min(row.in_features + row.out_features for row in done.layers)
    assert 0 <= share * whole - kept < max(0.01 * share * whole, one_rank)
    assert done.parameters_before == parameters
    assert done.parameters == sum(weight.numel() for weight in model.parameters())
    assert len({row.rank for row in done.layers}) > 1


def weight_count(layer: Any) -> int:
    return sum(weight.numel() for name, weight in layer.named_parameters() if "bias" not in name)


def random_options(seed: int) -> list[RankOptions]:
    random = np.random.default_rng(seed)
    layers = []
    for size_in, size_out in ((12, 12), (12, 20), (20, 12), (12, 12)):
        energy = np.sort(random.random(12) ** random.integers(1, 5))[::-1]
        lost = 1 - energy.cumsum() / energy.sum()
        highest = (size_in * size_out - 1) // (size_in + size_out)
        importance = float(random.random())
        layers.append(
            RankOptions(size_in + size_out, size_in * size_out, lost[:highest], importance)
        )
    return layers


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_ranks_by_size_fit_and_lose_hardly_more_than_the_best_that_fit(
    seed: int, share: float
) -> None:
    """Against all choices that there are."""
    layers = random_options(seed)
    ranks = ranks_by_size(layers, share)
    taken = [
        layer.highest_rank if r is None else r - 1 for r, layer in zip(ranks, layers, strict=True)
    ]
    budget = share * sum(layer.weights for layer in layers)
    sizes, losses = np.zeros(1), np.zeros(1)
    for layer in layers:
        sizes = np.add.outer(sizes, layer.sizes()).ravel()
        losses = np.add.outer(losses, layer.losses()).ravel()
    best, middle = losses[sizes <= budget].min(), np.median(losses[sizes <= budget])
    size = sum(layer.sizes()[index] for index, layer in zip(taken, layers, strict=True))
    loss = sum(layer.losses()[index] for index, layer in zip(taken, layers, strict=True))
    assert size <= budget
    assert best <= loss < best + 0.2 * (middle - best)


def test_a_layer_that_the_loss_does_not_mind_is_the_first_to_go(windows: Tensor) -> None:
    model = made("llama")
    seen = collect_activations(model, windows)
    useless = "model.layers.1.self_attn.o_proj"
    seen[useless] = Activations(seen[useless].gram, sensitivity=0.0)
    rows = {row.name: row for row in compress(model, params=0.8, activations=seen).layers}
    assert rows[useless].rank == 1


# What is refused


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({}, "exactly one"),
        ({"rank": 4, "energy": 0.5}, "exactly one"),
        ({"rank": 0}, "rank is 0: it must be 1 or more"),
        ({"energy": 0.0}, "energy is 0.0"),
        ({"energy": 1.5}, "energy is 1.5"),
        ({"params": 1.0}, "params is 1.0"),
        ({"params": 0.0}, "params is 0.0"),
        ({"rank": 100}, "the highest rank that saves weights is 21"),
        ({"energy": 1.0}, "energy 1.0 saves no weights in any layer"),
        ({"params": 0.001}, "rank 1 in every layer already takes"),
    ],
)
def test_what_cannot_be_asked_changes_nothing(
    choice: dict[str, Any], reason: str, ids: Tensor
) -> None:
    model = made("llama")
    expected = model(ids).logits
    with pytest.raises(ValueError, match=reason):
        compress(model, **choice)
    assert type(model) is LlamaForCausalLM
    assert not hasattr(model.config, "module_ranks")
    assert torch.equal(model(ids).logits, expected)


def test_a_model_without_layers_to_compress() -> None:
    model = made("gpt2")
    compress(model, rank=1)
    with pytest.raises(ValueError, match="no compressible layers"):
        compress(model, rank=1)


def test_an_architecture_that_nobody_knows() -> None:
    class Strange(LlamaForCausalLM):
        pass

    with pytest.raises(ValueError, match="a Strange cannot be compressed"):
        compress(Strange(made("llama").config), rank=4)


def test_weights_that_are_not_finite() -> None:
    model = made("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = torch.inf
    with pytest.raises(
        ValueError, match=r"layers\.1\.mlp\.up_proj has weights that are not finite"
    ):
        compress(model, rank=4)


def test_a_text_through_which_numbers_overflow(windows: Tensor) -> None:
    model = made("llama")
    activations = collect_activations(model, windows)
    activations["model.layers.0.mlp.up_proj"].gram[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"up_proj has inputs on the text that are not finite"):
        compress(model, rank=4, activations=activations)


def test_ranks_for_layers_that_are_not_there() -> None:
    config = LumiereConfig(module_ranks={"model.layers.9.mlp.up_proj": 4})
    with pytest.raises(
        ValueError, match=r"no linear layer called 'model\.layers\.9\.mlp\.up_proj'"
    ):
        LumiereForCausalLM(config)
