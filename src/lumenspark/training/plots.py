"""The curves of a run, drawn from its metrics."""

import io
from collections.abc import Iterable
from typing import Any

from lumenspark.files import write_file
from lumenspark.recipe import Recipe
from lumenspark.runs.checkpoint import read_marker
from lumenspark.runs.run import Run


def draw_curves(run: Run) -> None:
    """Write loss.svg: training and validation loss (nats per token) over tokens seen.

    The step whose weights were kept as ``best`` is marked.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    lines, recipe = list(run.metrics()), run.recipe()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    tokens, losses = _series(lines, "loss")
    axes.plot(tokens, losses, color="#0072B2", linewidth=1.0, label="training")
    tokens, losses = _series(lines, "validation_loss")
    axes.plot(tokens, losses, color="#D55E00", marker="o", markersize=3, label="validation")
    _mark_best(axes, run, recipe)
    axes.set_xlabel("tokens seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 5M
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"{recipe.name}, run {run.id}")
    axes.grid(alpha=0.3)
    axes.legend()
    drawn = io.StringIO()
    # No date, so that the same metrics give the same picture.
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_file(run.path / "loss.svg", drawn.getvalue())


def _mark_best(axes: Any, run: Run, recipe: Recipe) -> None:
    """A line at the step of ``best``, with its validation loss where that is known."""
    marker = read_marker(run.checkpoint("best"))
    tokens = marker.step * recipe.tokens_per_step
    loss = "" if marker.loss is None else f", loss {marker.loss:.3f}"
    label = f"kept: step {marker.step:,}{loss}"
    axes.axvline(tokens, color="#009E73", linewidth=1.0, linestyle="--", label=label)


def _series(lines: Iterable[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [(line["tokens"], line[key]) for line in lines if key in line]
    return [tokens for tokens, _ in points], [loss for _, loss in points]
