"""Rank allocation: the rank of each layer from sizes and lost energy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-12  # relative energy: a relative error of 1e-6, the resolution of float32


@dataclass(frozen=True)
class RankOptions:
    """The choices of one layer: a rank that saves weights, or no change.

    Attributes:
        per_rank: weights per unit of rank, in + out.
        weights: weights of the unchanged layer.
        lost_energy: fraction of the energy lost at rank 1, 2, …
        importance: cost of losing all of the energy, in the same unit for all layers.
    """

    per_rank: int
    weights: int
    lost_energy: Floats
    importance: float

    @property
    def highest_rank(self) -> int:
        """The highest rank that saves weights."""
        return len(self.lost_energy)

    def sizes(self) -> Floats:
        """Weights at rank 1, 2, …, and of the unchanged layer."""
        return np.append(self.per_rank * np.arange(1.0, self.highest_rank + 1), self.weights)

    def losses(self) -> Floats:
        """Cost at rank 1, 2, …, and of the unchanged layer."""
        return np.append(self.importance * self.lost_energy, 0.0)


def rank_by_energy(options: RankOptions, energy: float) -> int | None:
    """The lowest rank that retains this fraction of the energy; None if it saves nothing."""
    enough = options.lost_energy <= 1 - energy + ROUNDING
    return int(enough.argmax()) + 1 if enough.any() else None


def ranks_by_size(options: Sequence[RankOptions], fraction: float) -> list[int | None]:
    """Ranks (None: unchanged) at which all layers retain at most this fraction of their weights.

    Each layer minimises cost + price · size. The price per weight is a Lagrange multiplier, the
    lowest for which the total fits the budget. What is left of the budget, because sizes are
    discrete, goes to single ranks with the largest gain per weight.

    Raises ValueError if rank 1 in every layer exceeds the budget.
    """
    sizes = [layer.sizes() for layer in options]
    losses = [layer.losses() for layer in options]
    total = sum(layer.weights for layer in options)
    budget = fraction * total
    least = sum(float(size[0]) for size in sizes)
    if least > budget:
        raise ValueError(
            f"params is {fraction}: rank 1 in every layer already takes {least / total:.4f}"
        )

    def choices_at(price: float) -> list[int]:
        pairs = zip(losses, sizes, strict=True)
        return [int((loss + price * size).argmin()) for loss, size in pairs]

    def size_of(taken: list[int]) -> float:
        return sum(float(size[index]) for size, index in zip(sizes, taken, strict=True))

    low, high = 0.0, max(float(loss.max()) for loss in losses)  # every layer then has rank 1
    for _ in range(100):
        price = (low + high) / 2
        low, high = (low, price) if size_of(choices_at(price)) <= budget else (price, high)
    taken = choices_at(high)
    _spend_rest(budget - size_of(taken), taken, sizes, losses)
    return [
        None if index == layer.highest_rank else index + 1
        for index, layer in zip(taken, options, strict=True)
    ]


def _spend_rest(rest: float, taken: list[int], sizes: list[Floats], losses: list[Floats]) -> None:
    """Spend ``rest`` weights on the next larger choice of single layers, best gain first."""
    while True:
        best, most = None, -1.0
        for layer, index in enumerate(taken):
            if index + 1 == len(sizes[layer]):
                continue
            size = sizes[layer][index + 1] - sizes[layer][index]
            gain = (losses[layer][index] - losses[layer][index + 1]) / size
            if size <= rest and gain > most:
                best, most = layer, gain
        if best is None:
            return
        rest -= sizes[best][taken[best] + 1] - sizes[best][taken[best]]
        taken[best] += 1
