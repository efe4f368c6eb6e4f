"""lumenspark runs: list runs and their results."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.cli.parsing import parse
from lumenspark.errors import UserError, printable

if TYPE_CHECKING:
    from lumenspark.runs.run import Run


def main(arguments: list[str]) -> None:
    parse(_show, "runs", arguments)


def _show() -> None:
    """List the runs in ./runs (or LUMENSPARK_RUNS), newest last."""
    from rich.console import Console
    from rich.table import Table

    from lumenspark.runs.run import list_runs, runs_folder

    runs = list_runs()
    if not runs:
        print(f"no runs in {runs_folder().resolve()}: start one with `lumenspark train`")
        return
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("data", overflow="fold")
    for name in ("steps", "val loss", "card loss", "ppl", "bits/byte"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        problems: list[str] = []
        table.add_row(*map(printable, _row(run, problems)))
        for problem in problems:
            print(f"skipped an unreadable file: {printable(problem)}")
    Console(highlight=False, markup=False, emoji=False).print(table)


def _row(run: "Run", problems: list[str]) -> list[str]:
    """The table row of a run; errors of unreadable files are added to ``problems``."""
    recipe, steps = None, ""
    try:
        recipe = run.recipe()
        steps = f"/{recipe.train.steps}"
    except UserError as error:
        problems.append(str(error))
    if (problem := run.metrics_problem()) is not None:
        problems.append(problem)
    lines = list(run.metrics())
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    card, strided = _figures(run, problems)
    return [
        run.id,
        recipe.name if recipe else "",
        Path(recipe.data).name if recipe else "",
        f"{max((line['step'] for line in lines), default=0)}{steps}",
        _figure(min(filter(math.isfinite, losses), default=None)),
        _figure(card.get("loss")),
        _figure(card.get("perplexity"), 2),
        _figure(strided.get("bits_per_byte")),
    ]


def _figures(run: "Run", problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Latest evaluations of the best checkpoint by protocols card and strided; empty if none."""
    from lumenspark.evaluation.results import of_weights, read_evaluations
    from lumenspark.files import weights_digest
    from lumenspark.runs.checkpoint import checkpoint_step

    try:
        entries = read_evaluations(run.path)
        if entries:
            best = run.checkpoint("best")
            entries = of_weights(entries, "best", weights_digest(best), checkpoint_step(best))
    except UserError as error:
        problems.append(str(error))
        return {}, {}
    card, strided = ([e for e in entries if e["protocol"] == p] for p in ("card", "strided"))
    return card[-1] if card else {}, strided[-1] if strided else {}


def _figure(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""
