"""An exponential moving average (EMA) of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RAW = "raw."  # prefix of the unaveraged weights in the trainer state


class EMA:
    """The average of a model's weights during training; disabled by a decay of 0.

    The decay is smaller in early steps, so that the initial weights have little influence.
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
        """Set the model to the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def raw_tensors(self) -> dict[str, Tensor]:
        """The unaveraged weights by name; empty without an average."""
        return {RAW + name: p.detach().clone() for name, p in self._parameters.items()}

    def restore(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Set the average to the model's weights, and the weights to those of :meth:`raw_tensors`.

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
        """Set the average to the model's weights."""
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(parameter.detach())

    def _swap(self) -> None:
        for name, average in self._averages.items():
            parameter = self._parameters[name]
            parameter.data, average.data = average.data, parameter.data
