"""lumenspark sweep: a recipe with values varied, compared on the validation split."""

import shlex
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from lumenspark.cli.parsing import parse_recipe
from lumenspark.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from lumenspark.sweep.trials import Trial

ABOUT = """Train a recipe with some values varied; print the validation losses, best first.

--vary KEY=A,B,C      values to try; of several keys, all combinations
--vary KEY=LOW..HIGH  a range for --trials: by its logarithm where both ends are positive and a
                      factor of 10 or more apart, else evenly; whole numbers stay whole
--seeds N             so many trainings for each trial, with other seeds; 3 unless given
--trials N            so many trials, drawn by Optuna (TPE, median pruner) from lists and ranges

The same command again goes on where it was stopped. All other options are those of train."""


@dataclass
class Options:
    """What a sweep has beside a recipe."""

    vary: tyro.conf.UseAppendAction[list[str]]
    seeds: int = 3
    trials: int | None = None


def main(arguments: list[str]) -> None:
    options, others = tyro.cli(Options, args=arguments, return_unknown_args=True, add_help=False)
    recipe = parse_recipe("sweep", ABOUT, others)
    vary = read_vary(options.vary)
    if "train.steps" in vary and any(each.split("=")[0] == "--budget" for each in others):
        raise UserError("--budget sets train.steps, so both cannot be given: leave one out")
    from lumenspark.sweep.runner import sweep
    from lumenspark.training.trainer import Stopped

    try:
        trials = sweep(recipe, vary=vary, seeds=options.seeds, trials=options.trials)
    except Stopped as stopped:
        print("stopped and saved: the same command goes on")
        sys.exit(128 + stopped.signal)
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False).print(results_table(trials))
    print(last_words(trials[0], others))


def read_vary(given: list[str]) -> dict[str, str]:
    """``optim.muon-lr=0.01,0.02`` and so on, as keys with what they may be."""
    vary: dict[str, str] = {}
    for text in given:
        key, equals, choices = text.partition("=")
        key = key.strip().replace("-", "_")
        if not key or not equals:
            raise UserError(f"--vary {text} is no KEY=A,B,C or KEY=LOW..HIGH")
        if key in vary:
            raise UserError(f"--vary {key} is there twice: give all its values at once")
        vary[key] = choices
    return vary


def results_table(trials: list["Trial"]) -> "Table":
    """A row a trial. Losses in nats per token; steps, tokens and seconds of one training."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    keys = [key.replace(".", ".\n") for key in trials[0].values]
    for name in ("trial", *keys, "val loss", "spread", "n", "steps", "tokens", "seconds"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("")
    for trial in trials:
        spread, seconds = trial.spread, [training.seconds for training in trial.trainings]
        last = trial.trainings[-1]
        table.add_row(
            str(trial.number),
            *map(short, trial.values.values()),
            "" if trial.diverged else f"{trial.mean:.4f}",
            "" if trial.diverged or spread is None else f"{spread:.4f}",
            str(len(trial.losses)),
            f"{last.steps:,}",
            f"{last.tokens:,}",
            f"{statistics.fmean(seconds):.1f}",
            "diverged" if trial.diverged else "pruned" if trial.pruned else "",
        )
    return table


def last_words(best: "Trial", others: list[str]) -> str:
    """The command that trains the best trial's recipe, evaluated on the test split then."""
    measured = "val loss: nats per token on the validation split, the mean over n seeds"
    if not best.complete:
        return f"{measured}\nevery trial diverged: try lower rates"
    chosen = [part for key, value in best.values.items() for part in (f"--{key}", str(value))]
    command = shlex.join(["lumenspark", "train", *others, *chosen])
    return f"{measured}; spread: their standard deviation\nThe best: {command}"


def short(value: Any) -> str:
    """A value in a cell: four digits of a number that is not whole."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
