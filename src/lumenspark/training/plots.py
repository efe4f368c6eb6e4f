"""The curves of a run, drawn from its metrics."""

import io
from collections.abc import Iterable
from typing import Any

from lumenspark.files import write_file
from lumenspark.runs.run import Run


def draw_curves(run: Run) -> None:
    """Write loss.svg: training and validation loss (nats per token) over tokens seen."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    lines = list(run.metrics())
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    tokens, losses = _series(lines, "loss")
    axes.plot(tokens, losses, color="#0072B2", linewidth=1.0, label="training")
    tokens, losses = _series(lines, "validation_loss")
    axes.plot(tokens, losses, color="#D55E00", marker="o", markersize=3, label="validation")
    axes.set_xlabel("tokens seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 5M
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"{run.recipe().name}, run {run.id}")
    axes.grid(alpha=0.3)
    axes.legend()
    drawn = io.StringIO()
    # Without a date the same metrics give the same picture.
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_file(run.path / "loss.svg", drawn.getvalue())


def _series(lines: Iterable[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [(line["tokens"], line[key]) for line in lines if key in line]
    return [tokens for tokens, _ in points], [loss for _, loss in points]
