"""lumenspark train: train and evaluate a model from a recipe, and write its model card."""

import time
from typing import TYPE_CHECKING

from lumenspark.cli.parsing import parse_recipe

if TYPE_CHECKING:
    from lumenspark.training.estimate import Estimate


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    about = (
        "Train a model from a recipe, evaluate its best checkpoint, write loss curve and model "
        "card.\n\n--dry-run prints an estimate of time and memory without training."
    )
    dry_run = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    recipe = parse_recipe("train", about, arguments)
    from lumenspark.pipeline import train
    from lumenspark.training.estimate import estimate

    if dry_run:
        print_estimate(estimate(recipe))
        return 0
    from lumenspark.cli.stopping import exit_when_stopped

    with exit_when_stopped():
        train(recipe, started=started)
    return 0


def print_estimate(estimate: "Estimate") -> None:
    from rich.console import Console
    from rich.table import Table

    epochs = estimate.tokens_seen / estimate.train_tokens
    table = Table(show_header=False, box=None)
    for name, value in (
        ("parameters", f"{estimate.parameters:,}"),
        ("vocabulary", f"{estimate.vocab_size:,}"),
        ("train split", f"{estimate.train_tokens:,} tokens"),
        ("steps", f"{estimate.steps:,} of {estimate.seconds_per_step * 1000:.0f} ms"),
        ("tokens seen", f"{estimate.tokens_seen:,} ({epochs:.1f} epochs)"),
        ("training time", f"{estimate.seconds / 60:.1f} min"),
        ("memory", f"{estimate.memory / 2**20:,.0f} MiB"),
    ):
        table.add_row(name, value)
    Console(highlight=False).print(table)
