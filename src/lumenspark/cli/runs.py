"""lumenspark runs: list runs and their results."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.cli.parsing import parse
from lumenspark.errors import UserError, printable

if TYPE_CHECKING:
    from lumenspark.runs.run import Run


COLUMNS = ("bits/byte", "loss", "ppl", "val loss")


@dataclass
class Arguments:
    """List the runs in ./runs (or LUMENSPARK_RUNS), newest last.

    bits/byte, loss and ppl (perplexity): the best checkpoint on the test split, protocol strided.
    Losses are in nats per token, so they compare between runs with the same tokenizer only; bits
    per byte compare between all runs on the same text.
    """

    best: bool = False
    """Sort by bits per byte on the test split, best first."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "runs", arguments)
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
    for name in ("steps", *COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    rows = []
    for run in runs:
        problems: list[str] = []
        rows.append(_row(run, problems))
        for problem in problems:
            print(f"skipped an unreadable file: {printable(problem)}")
    if options.best:
        rows.sort(key=lambda row: row.figures["bits/byte"] or math.inf)
    for row in rows:
        table.add_row(*map(printable, row.words), *map(_shown, row.figures.values()))
    Console(highlight=False, markup=False, emoji=False).print(table)


@dataclass
class _Row:
    """A row of the table: words, and a figure or None for each of :data:`COLUMNS`."""

    words: list[str]
    figures: dict[str, float | None]


def _row(run: "Run", problems: list[str]) -> _Row:
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
    test = _test_figures(run, problems)
    words = [
        run.id,
        recipe.name if recipe else "",
        Path(recipe.data).name if recipe else "",
        f"{max((line['step'] for line in lines), default=0)}{steps}",
    ]
    figures = (
        test.get("bits_per_byte"),
        test.get("loss"),
        test.get("perplexity"),
        min(filter(math.isfinite, losses), default=None),
    )
    return _Row(words, dict(zip(COLUMNS, figures, strict=True)))


def _test_figures(run: "Run", problems: list[str]) -> dict[str, Any]:
    """Latest evaluation of the best checkpoint by protocol strided; empty if there is none.

    One on the run's own text goes before others, and one on the test split before other splits.
    """
    from lumenspark.evaluation.results import of_weights, read_evaluations
    from lumenspark.files import weights_digest
    from lumenspark.runs.checkpoint import checkpoint_step

    try:
        entries = read_evaluations(run.path)
        if entries:
            best = run.checkpoint("best")
            entries = of_weights(entries, "best", weights_digest(best), checkpoint_step(best))
        corpus = run.environment().get("corpus")
        own = corpus.get("digest") if isinstance(corpus, dict) else None
    except UserError as error:
        problems.append(str(error))
        return {}
    strided = [entry for entry in entries if entry["protocol"] == "strided"]
    rank = [(entry.get("data_digest") == own, entry.get("split") == "test") for entry in strided]
    return max(zip(rank, range(len(rank)), strided, strict=True), default=((), 0, {}))[-1]


def _shown(value: float | None) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
