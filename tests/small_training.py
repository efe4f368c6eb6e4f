"""Trainings of seconds inside the process of a test, and what they would print."""

from pathlib import Path
from typing import Any

from command_line import SMALL

from lumenspark.recipe import Recipe, load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run
from lumenspark.training.setup import set_up
from lumenspark.training.trainer import Trainer


class Collected(Reporter):
    """Keeps what would be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def small(text_folder: Path, **more: Any) -> Recipe:
    changes = {name.replace("__", "."): value for name, value in more.items()}
    return with_overrides(load_recipe("lumiere-tiny"), SMALL | {"data": str(text_folder)} | changes)


def trainer_of(recipe: Recipe) -> tuple[Trainer, Collected]:
    reporter = Collected()
    return Trainer(set_up(recipe, reporter), reporter), reporter


def rollbacks(run: Run) -> list[dict[str, Any]]:
    """The events of a run that are no samples."""
    return [event for event in run.events() if event["event"] != "sample"]
