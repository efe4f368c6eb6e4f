"""lumenspark runs: what has been trained, with figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.errors import UserError

from .parsing import parse

if TYPE_CHECKING:
    from lumenspark.training.run import Run


def main(arguments: list[str]) -> None:
    parse(_show, "runs", arguments)


def _show() -> None:
    """List the runs in ./runs (or LUMENSPARK_RUNS), the newest last."""
    from rich.console import Console
    from rich.table import Table

    from lumenspark.training.run import list_runs, runs_folder

    runs = list_runs()
    if not runs:
        print(f"no runs in {runs_folder().resolve()}: `lumenspark train` makes one")
        return
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("data", overflow="fold")
    for name in ("steps", "val loss", "card loss", "ppl", "bits/byte"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        try:
            recipe = run.recipe()
        except UserError as error:
            print(f"passing over a run: {error}")
            continue
        best = [line["validation_loss"] for line in run.metrics() if "validation_loss" in line]
        card, strided = (_newest(run, protocol) for protocol in ("card", "strided"))
        table.add_row(
            run.id,
            recipe.name,
            Path(recipe.data).name,
            f"{_last_step(run)}/{recipe.train.steps}",
            _figure(min(best, default=None)),
            _figure(card.get("loss")),
            _figure(card.get("perplexity"), 2),
            _figure(strided.get("bits_per_byte")),
        )
    Console(highlight=False).print(table)


def _last_step(run: "Run") -> int:
    return max((line["step"] for line in run.metrics()), default=0)


def _newest(run: "Run", protocol: str) -> dict[str, Any]:
    """The newest figures of the best checkpoint by a protocol; empty where there are none."""
    from lumenspark.evaluation.records import read_evaluations
    from lumenspark.training.checkpoint import checkpoint_step

    fitting = [
        entry
        for entry in read_evaluations(run.path)
        if entry["protocol"] == protocol
        and entry["checkpoint"] == "best"
        and entry["step"] == checkpoint_step(run.checkpoint("best"))
    ]
    return fitting[-1] if fitting else {}


def _figure(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"
