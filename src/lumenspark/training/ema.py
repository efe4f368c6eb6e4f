"""An exponential moving average (EMA) of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RAW = "raw."  # prefix in the trainer's state of the weights in training, where the EMA is saved


class EMA:
    """The average of a model's weights over its training; with a decay of 0, nothing at all.

    Early steps have a smaller decay, so that the initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters()) if decay else {}
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    def update(self, step: int) -> None:
        """Move the average towards the weights after ``step`` (0 is the first)."""
        if self._averages:
            decay = min(self.decay, (step + 1) / (step + 10))
            weights: list[Tensor] = list(self._parameters.values())
            torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def raw_tensors(self) -> dict[str, Tensor]:
        """The weights in training, by name; none without an average."""
        return {RAW + name: p.detach().clone() for name, p in self._parameters.items()}

    def restore(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the model's weights as the average, and those of :meth:`raw_tensors` as weights.

        Returns the rest of ``tensors``.
        """
        rest = dict(tensors)
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(parameter.detach())
            parameter.data.copy_(rest.pop(RAW + name))
        return rest

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The names and shapes of :meth:`raw_tensors`."""
        return {RAW + name: tuple(p.shape) for name, p in self._parameters.items()}

    def copy_weights(self) -> None:
        """Take the model's weights as the average."""
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(parameter.detach())

    def _swap(self) -> None:
        for name, average in self._averages.items():
            parameter = self._parameters[name]
            parameter.data, average.data = average.data, parameter.data
