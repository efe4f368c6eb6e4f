"""Muon, with all matrices of one shape in one batched product."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# The quintic iteration of Jordan et al. (2024, kellerjordan.github.io/posts/muon). It is steep at
# zero, so that few iterations are enough; singular values end near 1, not at 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(Optimizer):
    """As ``torch.optim.Muon`` with Nesterov momentum and the original scaling, but batched.

    The matrices of a small model are too small to use a CPU fully one by one. Matrices of one shape
    are orthogonalised together, which takes half the time (docs/log.md).
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        """``params`` are matrices. Weight decay is decoupled and scaled by the learning rate."""
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if params:
                self._step(params, group["lr"], group["momentum"], group["weight_decay"])

    def _step(self, params: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        gradients = [parameter.grad for parameter in params if parameter.grad is not None]
        for parameter in params:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, buffers, momentum)
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        for places in _places_by_shape(params):
            alike = [params[place] for place in places]
            rows, columns = alike[0].shape
            update = orthogonalise(torch.stack([updates[place] for place in places]))
            scaled_lr = lr * max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(alike, list(update.to(alike[0].dtype)), alpha=-scaled_lr)


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest matrices (N, rows, columns) with all singular values near 1, in bfloat16."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT.contiguous() if tall else x  # so that the Gram matrix is the smaller one
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def _places_by_shape(params: list[Tensor]) -> list[list[int]]:
    places: dict[torch.Size, list[int]] = {}
    for place, parameter in enumerate(params):
        places.setdefault(parameter.shape, []).append(place)
    return list(places.values())
