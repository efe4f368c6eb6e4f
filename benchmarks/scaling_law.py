"""A scaling law, its fit, and its picture: what scaling.py draws from its results.

L(N, D) = E + A / n^a + B / d^b in nats per token, with n and d in millions of parameters and of
training tokens (Hoffmann et al. 2022, arXiv 2203.15556, equation 2). So A and B are the nats that a
model of a million parameters, and one trained on a million tokens, lies above E.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MILLION = 1e6
DELTA = 1e-3  # Hoffmann's: residuals of log loss beyond it count linearly
EXPONENTS = (0.05, 1.0)  # bounds: a short range of sizes tells little about E and a apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STARTS = tuple(itertools.product((1.0, 2.0, 3.0), (0.2, 0.5), (0.2, 0.5)))  # E, a, b


@dataclass(frozen=True)
class Point:
    """A trained model and its validation loss (nats per token)."""

    size: str
    parameters: int
    tokens: int
    flops: float
    loss: float


@dataclass(frozen=True)
class Law:
    irreducible: float  # E
    size_nats: float  # A
    size_exponent: float  # a
    token_nats: float  # B
    token_exponent: float  # b

    def loss(self, parameters: float, tokens: float) -> float:
        by_size = self.size_nats * (parameters / MILLION) ** -self.size_exponent
        by_tokens = self.token_nats * (tokens / MILLION) ** -self.token_exponent
        return self.irreducible + by_size + by_tokens

    def __str__(self) -> str:
        return (
            f"L(N, D) = {self.irreducible:.3f} + {self.size_nats:.3f} / (N / 1M)^"
            f"{self.size_exponent:.3f} + {self.token_nats:.3f} / (D / 1M)^{self.token_exponent:.3f}"
        )


def fit(points: list[Point]) -> Law:
    """The law with the smallest Huber loss of log loss, of L-BFGS runs from a grid of starts."""
    numbers = [(point.parameters, point.tokens, point.loss) for point in points]
    sizes, tokens, losses = torch.tensor(numbers, dtype=torch.float64).T
    fits = [_descend(start, sizes / MILLION, tokens / MILLION, losses) for start in STARTS]
    return min(fits, key=lambda fitted: fitted[0])[1]


def _descend(
    start: tuple[float, float, float], sizes: Tensor, tokens: Tensor, losses: Tensor
) -> tuple[float, Law]:
    """From E, a and b to the nearest minimum: the objective there, and its law."""
    low, high = EXPONENTS
    exponents = (torch.tensor(start[1:], dtype=torch.float64) - low) / (high - low)
    logs = torch.tensor([start[0], 1.0, 1.0], dtype=torch.float64).log()
    free = torch.cat([logs, exponents.logit()]).requires_grad_()  # log E, A, B; logits of a, b
    optimizer = torch.optim.LBFGS(
        [free], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        level, by_size, by_tokens = free[:3].exp()
        a, b = low + (high - low) * free[3:].sigmoid()
        predicted = level + by_size * sizes**-a + by_tokens * tokens**-b
        return functional.huber_loss(predicted.log(), losses.log(), reduction="sum", delta=DELTA)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective() / DELTA**2
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        level, by_size, by_tokens = free[:3].exp().tolist()
        a, b = (low + (high - low) * free[3:].sigmoid()).tolist()
        return float(objective()), Law(level, by_size, a, by_tokens, b)


def spread(points: list[Point], parameters: float, tokens: float) -> tuple[float, float]:
    """Lowest and highest prediction of laws that are fitted without one of the points."""
    others = [points[:number] + points[number + 1 :] for number in range(len(points))]
    predictions = [fit(rest).loss(parameters, tokens) for rest in others]
    return min(predictions), max(predictions)


def draw(law: Law, small: list[Point], large: list[Point], path: Path) -> None:
    """Loss against parameters and against compute: points, the law's curves, and the prediction."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    matplotlib.rcParams["svg.hashsalt"] = "scaling"  # the same figures give the same file
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    by_size, by_compute = figure.subplots(1, 2, sharey=True)
    for axes in (by_size, by_compute):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    every = small + large
    _draw_against_parameters(by_size, law, every)
    _draw_against_compute(by_compute, law, every)
    _mark_predictions(by_size, law, large, "parameters")
    _mark_predictions(by_compute, law, large, "flops")
    by_size.legend(fontsize="small", loc="lower left")
    by_compute.legend(fontsize="small", loc="upper right")
    by_size.set_ylabel("validation loss (nats per token)")
    figure.savefig(path, metadata={"Date": None})


def _draw_against_parameters(axes: Any, law: Law, points: list[Point]) -> None:
    for color, tokens in zip(COLORS, sorted({point.tokens for point in points}), strict=False):
        group = [point for point in points if point.tokens == tokens]
        xs = np.geomspace(min(p.parameters for p in points), max(p.parameters for p in points))
        axes.plot(xs, [law.loss(x, tokens) for x in xs], color=color, linewidth=1)
        label = f"{tokens / MILLION:.2f}M tokens"
        _dots(axes, [p.parameters for p in group], group, color, label)
    axes.set_xlabel("parameters")
    sizes = {point.parameters: f"{point.parameters / MILLION:.2f}M" for point in points}
    axes.set_xticks(list(sizes), list(sizes.values()))
    axes.set_xticks([], minor=True)


def _draw_against_compute(axes: Any, law: Law, points: list[Point]) -> None:
    for color, count in zip(COLORS, sorted({point.parameters for point in points}), strict=False):
        group = [point for point in points if point.parameters == count]
        per_token = group[0].flops / group[0].tokens
        xs = np.geomspace(min(p.tokens for p in points), max(p.tokens for p in points))
        losses = [law.loss(count, tokens) for tokens in xs]
        axes.plot(xs * per_token, losses, color=color, linewidth=1)
        label = f"{count / MILLION:.2f}M parameters"
        _dots(axes, [p.flops for p in group], group, color, label)
    axes.set_xlabel("training compute (FLOP)")


def _dots(axes: Any, xs: list[float], points: list[Point], color: str, label: str) -> None:
    losses = [point.loss for point in points]
    axes.plot(xs, losses, color=color, marker="o", markersize=4, linestyle="", label=label)


def _mark_predictions(axes: Any, law: Law, large: list[Point], x: str) -> None:
    """The larger model: where the law puts it, and where it is."""
    xs = [getattr(point, x) for point in large]
    predicted = [law.loss(point.parameters, point.tokens) for point in large]
    style = {"linestyle": "", "color": "black", "fillstyle": "none"}
    name = large[0].size
    axes.plot(xs, predicted, marker="s", markersize=9, label=f"{name}, predicted", **style)
    losses = [point.loss for point in large]
    axes.plot(xs, losses, marker="x", markersize=7, label=f"{name}, measured", **style)
