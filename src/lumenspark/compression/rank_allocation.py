"""Which rank each layer gets: arithmetic on what ranks cost and what they lose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-12  # of the energy: an error of 1e-6, which float32 weights can barely hold


@dataclass(frozen=True)
class Options:
    """What one layer can do: take one of the ranks that save something, or stay as it is.

    Attributes:
        per_rank: weights that one rank costs, in + out.
        weights: what the layer has now; it is the price of staying.
        lost: the share of energy that is lost at rank 1, 2, …
        importance: what it costs to lose all of the energy, in the same unit for all layers.
    """

    per_rank: int
    weights: int
    lost: Floats
    importance: float

    @property
    def highest_rank(self) -> int:
        """The highest that saves anything."""
        return len(self.lost)

    def sizes(self) -> Floats:
        """Weights at rank 1, 2, …, and where the layer stays as it is."""
        return np.append(self.per_rank * np.arange(1.0, self.highest_rank + 1), self.weights)

    def losses(self) -> Floats:
        """What each of these costs."""
        return np.append(self.importance * self.lost, 0.0)


def rank_by_energy(options: Options, keep: float) -> int | None:
    """The lowest rank that keeps this share of the energy; None where none that saves does."""
    enough = options.lost <= 1 - keep + ROUNDING
    return int(enough.argmax()) + 1 if enough.any() else None


def ranks_by_size(options: Sequence[Options], share: float) -> list[int | None]:
    """Ranks (None: stay) such that all layers have this share of their weights, or just below.

    Each takes what has the lowest loss + price · size. The price of a weight is the same for all,
    and the lowest at which they fit (a Lagrange multiplier). That leaves a rest, because choices
    jump: from some rank on, a layer had better stay as it is. The rest is spent on single ranks,
    where they gain most.

    Raises ValueError where rank 1 everywhere is too much.
    """
    sizes = [layer.sizes() for layer in options]
    losses = [layer.losses() for layer in options]
    everything = sum(layer.weights for layer in options)
    budget = share * everything
    least = sum(float(size[0]) for size in sizes)
    if least > budget:
        raise ValueError(
            f"params is {share}: rank 1 in every layer already keeps {least / everything:.4f}"
        )

    def taken_at(price: float) -> list[int]:
        pairs = zip(losses, sizes, strict=True)
        return [int((loss + price * size).argmin()) for loss, size in pairs]

    def size_of(taken: list[int]) -> float:
        return sum(float(size[index]) for size, index in zip(sizes, taken, strict=True))

    low, high = 0.0, max(float(loss.max()) for loss in losses)  # at which nobody buys a rank
    for _ in range(100):
        price = (low + high) / 2
        low, high = (low, price) if size_of(taken_at(price)) <= budget else (price, high)
    taken = taken_at(high)
    _spend(budget - size_of(taken), taken, sizes, losses)
    return [
        None if index == layer.highest_rank else index + 1
        for index, layer in zip(taken, options, strict=True)
    ]


def _spend(rest: float, taken: list[int], sizes: list[Floats], losses: list[Floats]) -> None:
    """Move single layers to their next choice while ``rest`` weights allow it; best buy first."""
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
