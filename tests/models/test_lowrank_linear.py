"""LowRankLinear: a fresh layer's variance, its dense twin in both directions, and what it costs."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from lumenspark.models.lowrank_linear import LowRankLinear, factor_std, highest_rank

SHAPES = [(96, 96, 1), (64, 256, 16), (256, 64, 51), (384, 128, 95), (33, 70, 7)]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def mean_square(weights: list[Tensor]) -> float:
    return float(torch.stack(weights).detach().double().square().mean())


def product(layer: LowRankLinear) -> Tensor:
    return (layer.U.weight @ layer.V.weight).detach()


def relative_deviation(in_features: int, out_features: int, rank: int) -> float:
    """Of the mean square of a product of normal factors, over its expectation.

    Two squares in one row share a factor's row and correlate by 2 / rank of their squared mean,
    those in one column likewise; an entry's own square has variance 2 + 6 / rank.
    """
    shared = 2 / rank * (1 / in_features + 1 / out_features)
    return math.sqrt(shared + (2 + 6 / rank) / (in_features * out_features))


@pytest.mark.parametrize(("in_features", "out_features", "rank"), SHAPES)
def test_the_product_has_the_variance_of_a_dense_layer(
    in_features: int, out_features: int, rank: int
) -> None:
    """Within five standard deviations of what chance allows for this many weights."""
    draws = 20
    measured = mean_square(
        [product(LowRankLinear(in_features, out_features, rank)) for _ in range(draws)]
    )
    dense = mean_square([nn.Linear(in_features, out_features).weight for _ in range(draws)])
    # The dense layer's weights are uniform: the variance of a square is 4/5 of its squared mean.
    of_dense = math.sqrt(0.8 / (in_features * out_features))
    deviation = math.hypot(relative_deviation(in_features, out_features, rank), of_dense)
    assert measured == pytest.approx(dense, rel=5 * deviation / math.sqrt(draws))


@pytest.mark.parametrize("std", [0.02, 0.3])
def test_the_deviation_can_be_chosen(std: float) -> None:
    layer = LowRankLinear(200, 300, 50)
    layer.reset_parameters(std)
    tolerance = 5 * relative_deviation(200, 300, 50)
    assert mean_square([product(layer)]) == pytest.approx(std**2, rel=tolerance)
    for factor in (layer.U, layer.V):  # neither is the larger one
        assert float(factor.weight.detach().std()) == pytest.approx(factor_std(std, 50), rel=0.05)


def test_drawn_anew_all_parameters_change() -> None:
    layer = LowRankLinear(8, 8, 2, bias=True)
    before = [parameter.clone() for parameter in layer.parameters()]
    with torch.no_grad():
        layer.U.bias.fill_(1.0)
    layer.reset_parameters()
    assert torch.count_nonzero(layer.U.bias) == 0
    assert not torch.equal(layer.U.weight, before[1])
    assert not torch.equal(layer.V.weight, before[0])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("in_features", "out_features", "rank"), SHAPES)
def test_the_dense_layer_computes_the_same(
    in_features: int, out_features: int, rank: int, bias: bool
) -> None:
    layer = LowRankLinear(in_features, out_features, rank, bias)
    if bias:
        nn.init.normal_(layer.U.bias)
    hidden = torch.randn(2, 5, in_features)
    dense = layer.to_dense()
    assert type(dense) is nn.Linear
    assert dense.weight.shape == (out_features, in_features)
    assert (dense.bias is not None) == bias
    assert layer(hidden).shape == (2, 5, out_features)
    torch.testing.assert_close(layer(hidden), dense(hidden), rtol=1e-4, atol=1e-5)


def test_the_dense_layer_is_a_copy_of_the_same_precision() -> None:
    layer = LowRankLinear(8, 8, 2, bias=True).bfloat16()
    dense = layer.to_dense()
    assert dense.weight.dtype == dense.bias.dtype == torch.bfloat16
    with torch.no_grad():
        dense.bias.fill_(1.0)
    assert torch.count_nonzero(layer.U.bias) == 0


@pytest.mark.parametrize(("in_features", "out_features"), [(12, 12), (20, 9), (9, 20)])
def test_made_from_a_dense_layer_the_error_is_the_tail_of_its_spectrum(
    in_features: int, out_features: int
) -> None:
    dense = nn.Linear(in_features, out_features)
    singular = torch.linalg.svdvals(dense.weight.detach().double())
    for rank in range(1, highest_rank(in_features, out_features) + 1):
        layer, error = LowRankLinear.from_dense(dense, rank)
        assert layer.rank == rank
        tail = singular[rank:].norm() / singular.norm()
        weight = dense.weight.detach()
        difference = (product(layer) - weight).norm() / weight.norm()
        assert error == pytest.approx(float(tail), rel=1e-5)
        assert error == pytest.approx(float(difference), rel=1e-4)


def test_made_from_a_dense_layer_of_that_rank_nothing_is_lost() -> None:
    dense = LowRankLinear(24, 16, 5, bias=True).to_dense()
    nn.init.normal_(dense.bias)
    layer, error = LowRankLinear.from_dense(dense, 5)
    assert error < 1e-6
    hidden = torch.randn(7, 24)
    torch.testing.assert_close(layer(hidden), dense(hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_made_from_a_dense_layer_the_bias_is_kept(bias: bool) -> None:
    dense = nn.Linear(12, 10, bias)
    layer, _ = LowRankLinear.from_dense(dense, 3)
    if bias:
        assert torch.equal(layer.U.bias, dense.bias)
        assert layer.U.bias is not dense.bias
    else:
        assert layer.U.bias is None


def test_made_from_a_dense_layer_of_zeros_there_is_no_error() -> None:
    dense = nn.Linear(6, 6)
    nn.init.zeros_(dense.weight)
    layer, error = LowRankLinear.from_dense(dense, 2)
    assert error == 0.0
    assert torch.count_nonzero(product(layer)) == 0


def test_made_from_a_dense_layer_it_has_its_precision_and_learns() -> None:
    """bfloat16 rounds each weight by up to 2**-9, and so does it with either factor."""
    dense = nn.Linear(40, 40).bfloat16()
    layer, error = LowRankLinear.from_dense(dense, 10)
    assert layer.U.weight.dtype == layer.V.weight.dtype == torch.bfloat16
    weight = dense.weight.detach().float()
    difference = (product(layer.float()) - weight).norm() / weight.norm()
    assert error == pytest.approx(float(difference), rel=0.01)
    assert all(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("rank", [-1, 0, 6, 7, 100])
def test_a_rank_that_saves_nothing_is_refused(rank: int) -> None:
    """From 10 to 15 features a dense layer has 150 weights, and so have two factors of rank 6."""
    message = f"rank {rank} for a layer from 10 to 15 features: choose one from 1 to 5"
    with pytest.raises(ValueError, match=re.escape(message)):
        LowRankLinear(10, 15, rank)
    with pytest.raises(ValueError, match=re.escape(message)):
        LowRankLinear.from_dense(nn.Linear(10, 15), rank)


@pytest.mark.parametrize(("in_features", "out_features"), [(10, 15), (15, 10), (768, 768), (7, 90)])
def test_the_highest_rank_is_the_last_that_saves_weights(
    in_features: int, out_features: int
) -> None:
    highest = highest_rank(in_features, out_features)
    weights = in_features + out_features
    assert highest * weights < in_features * out_features <= (highest + 1) * weights
    assert LowRankLinear(in_features, out_features, highest).rank == highest


@pytest.mark.parametrize(("in_features", "out_features", "rank"), SHAPES)
def test_it_has_rank_times_in_plus_out_weights(
    in_features: int, out_features: int, rank: int
) -> None:
    for bias in (False, True):
        layer = LowRankLinear(in_features, out_features, rank, bias)
        weights = sum(parameter.numel() for parameter in layer.parameters())
        assert weights == rank * (in_features + out_features) + bias * out_features
        assert type(layer.U) is type(layer.V) is nn.Linear


def test_every_parameter_and_the_input_get_the_gradient_of_the_dense_layer() -> None:
    layer = LowRankLinear(12, 10, 3, bias=True)
    hidden = torch.randn(4, 12, requires_grad=True)
    direction = torch.randn(4, 10)
    (layer(hidden) * direction).sum().backward()
    of_product = direction.T @ hidden.detach()  # (out, in)
    for gradient, expected in (
        (hidden.grad, direction @ product(layer)),
        (layer.U.weight.grad, of_product @ layer.V.weight.detach().T),
        (layer.V.weight.grad, layer.U.weight.detach().T @ of_product),
        (layer.U.bias.grad, direction.sum(0)),
    ):
        assert torch.count_nonzero(gradient) == gradient.numel()
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
