"""lumenspark sweep: hyperparameter search, compared on the validation split."""

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

    from lumenspark.sweeps.trials import Trial

ABOUT = """Train over a grid or search of hyperparameters; print trials, best first.
--vary KEY=A,B,C    values to try; several keys give all combinations
--vary KEY=LOW..HIGH
                    range for --trials: logarithmic if both ends are positive
                    and at least a factor of 10 apart, else linear
--seeds N           seeds per trial (default: 3)
--trials N          number of trials, sampled by Optuna (TPE, median pruner)

The same command resumes a stopped sweep. All other options are those of train."""
EXAMPLES = """$ lumenspark sweep --vary optim.muon-lr=0.01,0.02 --budget 2m
$ lumenspark sweep --vary optim.muon-lr=0.005..0.1 --trials 20"""


@dataclass
class Options:
    """Options besides those of the recipe."""

    vary: tyro.conf.UseAppendAction[list[str]]
    seeds: int = 3
    trials: int | None = None


def main(arguments: list[str]) -> None:
    options, others = tyro.cli(Options, args=arguments, return_unknown_args=True, add_help=False)
    recipe = parse_recipe("sweep", ABOUT, others, EXAMPLES)
    vary = read_vary(options.vary)
    if "train.steps" in vary and any(each.split("=")[0] == "--budget" for each in others):
        raise UserError("--budget sets train.steps, so both cannot be given: omit one")
    from lumenspark.sweeps.runner import sweep
    from lumenspark.training.trainer import Stopped

    try:
        trials = sweep(recipe, vary=vary, seeds=options.seeds, trials=options.trials)
    except Stopped as stopped:
        print("stopped and saved: the same command resumes")
        sys.exit(128 + stopped.signal)
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False).print(results_table(trials))
    print(best_command(trials[0], others))


def read_vary(given: list[str]) -> dict[str, str]:
    """Parse ``optim.muon-lr=0.01,0.02`` and the like into keys and their choices."""
    vary: dict[str, str] = {}
    for text in given:
        key, equals, choices = text.partition("=")
        key = key.strip().replace("-", "_")
        if not key or not equals:
            raise UserError(f"--vary {text}: write KEY=A,B,C or KEY=LOW..HIGH")
        if key in vary:
            raise UserError(f"--vary {key} is given twice: give all its values at once")
        vary[key] = choices
    return vary


def results_table(trials: list["Trial"]) -> "Table":
    """One row per trial. Losses in nats per token; steps, tokens and seconds of one training."""
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


def best_command(best: "Trial", others: list[str]) -> str:
    """The legend of the table, and the command that trains the best trial and evaluates it."""
    measured = "val loss: nats per token on the validation split, mean over n seeds"
    if not best.complete:
        return f"{measured}\nevery trial diverged: use lower learning rates"
    chosen = [part for key, value in best.values.items() for part in (f"--{key}", str(value))]
    command = shlex.join(["lumenspark", "train", *others, *chosen])
    return f"{measured}; spread: standard deviation\nBest: {command}"


def short(value: Any) -> str:
    """A table cell; floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
