"""One optimizer step: forward, backward, gradient clipping, update.

Training and fine-tuning after compression share it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from lumenspark.training.losses import Loss


@dataclass(frozen=True)
class StepResult:
    """The mean loss of a step (nats per token), and the norm of its gradient before clipping."""

    loss: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss + self.grad_norm)


def optimizer_step(
    loss_of: Loss,
    micro_batches: Sequence[tuple[Tensor, Tensor | None]],
    parameters: Iterable[Tensor],
    optimizers: Iterable[Optimizer],
    max_grad_norm: float,
) -> StepResult:
    """Accumulate the gradient of the mean loss over ``micro_batches`` and update the weights.

    A micro-batch has the arguments of ``loss_of``: windows (B, T + 1), and teacher samples or None.
    A non-finite loss or gradient leaves the weights unchanged.
    """
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad = None
    total = torch.zeros((), device=parameters[0].device)
    for windows, teacher_samples in micro_batches:
        loss = loss_of(windows, teacher_samples) / len(micro_batches)
        loss.backward()
        total += loss.detach()
    norm = clip_grad_norm_(parameters, max_grad_norm)
    result = StepResult(float(total), float(norm))
    if result.is_finite:
        for optimizer in optimizers:
            optimizer.step()
    return result


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's random numbers (dropout), the same in a resumed run."""
    return (seed << 32) + step
