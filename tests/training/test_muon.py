"""The batched Muon against torch's own, matrix by matrix."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from lumenspark.training.muon import Muon, orthogonalise

SHAPES = [(16, 16), (24, 16), (16, 24), (16, 16), (24, 16), (7, 40)]
SETTINGS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}


def matrices() -> list[nn.Parameter]:
    noise = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=noise)) for shape in SHAPES]


def train(optimizer: Optimizer, params: list[nn.Parameter], steps: int, seed: int = 1) -> None:
    noise = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in params:
            parameter.grad = 0.1 * torch.randn(parameter.shape, generator=noise)
        optimizer.step()


def test_many_steps_are_those_of_torchs_own() -> None:
    ours, theirs, before = matrices(), matrices(), matrices()
    train(Muon(ours, **SETTINGS), ours, 20)
    train(torch.optim.Muon(theirs, adjust_lr_fn="original", **SETTINGS), theirs, 20)
    for one, other, start in zip(ours, theirs, before, strict=True):
        apart, moved = (one - other).norm(), (other - start).norm()
        assert float(apart / moved) < 1e-2  # bfloat16 rounds to 0.4%


def test_its_state_goes_into_torchs_own_and_back() -> None:
    params, again = matrices(), matrices()
    first = Muon(params, **SETTINGS)
    train(first, params, 3)
    theirs = torch.optim.Muon(again, adjust_lr_fn="original", **SETTINGS)
    content = first.state_dict()
    theirs.load_state_dict(
        {"state": content["state"], "param_groups": theirs.state_dict()["param_groups"]}
    )
    for one, other in zip(params, again, strict=True):
        assert torch.equal(
            first.state[one]["momentum_buffer"], theirs.state[other]["momentum_buffer"]
        )


def test_parameters_without_a_gradient_stay() -> None:
    params = matrices()
    before = [parameter.detach().clone() for parameter in params]
    optimizer = Muon(params, **SETTINGS)
    optimizer.step()
    params[2].grad = torch.ones_like(params[2])
    optimizer.step()
    changed = [not torch.equal(one, other) for one, other in zip(params, before, strict=True)]
    assert changed == [False, False, True, False, False, False]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 16), (2, 16, 24)])
def test_singular_values_end_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(given).float()
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.3
    assert singular.max() < 1.3
    cosine = ((left @ right) * result).sum() / (result.norm() * (left @ right).norm())
    assert float(cosine) > 0.95


def test_a_zero_gradient_moves_nothing_but_by_decay() -> None:
    params = matrices()
    before = [parameter.detach().clone() for parameter in params]
    for parameter in params:
        parameter.grad = torch.zeros_like(parameter)
    Muon(params, **SETTINGS).step()
    for one, other in zip(params, before, strict=True):
        assert torch.allclose(one, other * (1 - 0.05 * 0.1))
