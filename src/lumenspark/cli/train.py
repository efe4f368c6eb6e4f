"""lumenspark train: train and evaluate a model from a recipe, and write its model card."""

import time
from typing import TYPE_CHECKING

from lumenspark.cli import check_interrupts
from lumenspark.cli.parsing import parse_recipe

if TYPE_CHECKING:
    from lumenspark.recipe import Recipe
    from lumenspark.training.estimate import Estimate

ABOUT = """Train a model, evaluate its best checkpoint, write loss curve and model card.
--dry-run           estimate time and memory in seconds, without training"""
EXAMPLES = """$ lumenspark train lumiere-1m --data my-folder --budget 20m
$ lumenspark train lumiere-1m --size 3m --budget 1h --dry-run
$ lumenspark train my-recipe.yaml --train.steps 500 --optim.muon-lr 0.01"""


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    dry_run = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    recipe = parse_recipe("train", ABOUT, arguments, EXAMPLES)
    from lumenspark.reporter import Reporter

    reporter = Reporter()
    if not dry_run:
        reporter.say(intention(recipe))
    with reporter.working("loading PyTorch"):
        from lumenspark.cli.stopping import exit_when_stopped
        from lumenspark.pipeline import train
        from lumenspark.training.estimate import estimate

    check_interrupts()
    if dry_run:
        print_estimate(estimate(recipe, reporter, started))
        return 0
    with exit_when_stopped():
        train(recipe, reporter=reporter, started=started)
    return 0


def intention(recipe: "Recipe") -> str:
    """What is going to happen, and for how long."""
    length = f"at most {recipe.budget}" if recipe.budget else f"{recipe.train.steps:,} steps"
    return (
        f"{recipe.name}: text, tokenizer and training ({length}), then evaluation, model card and "
        "curves. Ctrl-C stops it, `lumenspark resume RUN` continues."
    )


def print_estimate(estimate: "Estimate") -> None:
    from rich.console import Console
    from rich.table import Table

    recipe = estimate.recipe
    seen = recipe.train.steps * recipe.tokens_per_step
    distill = recipe.distill
    rows = {
        "parameters": f"{estimate.parameters:,}",
        "vocabulary": f"{estimate.vocab_size:,}",
        "train split": f"{estimate.train_tokens:,} tokens",
        "set-up": f"{estimate.set_up:.0f} s",
    }
    if distill.teachers:
        rows["teachers"] = (
            f"{distill.teachers}, each {distill.steps:,} steps; sampling {estimate.sampling:.0f} s"
        )
    rows |= {
        "steps": f"{recipe.train.steps:,} of {estimate.seconds_per_step * 1000:.0f} ms",
        "tokens seen": f"{seen:,} ({seen / estimate.train_tokens:.1f} epochs)",
        "whole time": f"{estimate.seconds / 60:.1f} min"
        + (f", of a budget of {recipe.budget}" if recipe.budget else ""),
        "memory": f"at least {estimate.memory / 2**20:,.0f} MiB",
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
