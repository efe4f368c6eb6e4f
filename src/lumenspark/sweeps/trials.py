"""Results of a sweep: trials of several trainings each, one line of results.jsonl per trial."""

import json
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lumenspark.errors import UserError, reading
from lumenspark.files import write_file


@dataclass(frozen=True)
class Training:
    """One seed of a trial.

    Attributes:
        loss: lowest validation loss of the run, nats per token; None if it diverged.
        best_step: step of that loss.
        steps: steps taken; fewer than in the recipe after early stopping or divergence.
        tokens: tokens trained on.
        seconds: training time, including validation and saving.
        run: the run folder; of its checkpoints, ``best`` is kept.
    """

    seed: int
    loss: float | None
    best_step: int
    steps: int
    tokens: int
    seconds: float
    run: str


@dataclass(frozen=True)
class Trial:
    """Values of the varied keys, and the trainings with them.

    ``pruned``: stopped before the last seed by the pruner.
    """

    number: int
    values: dict[str, Any]
    trainings: list[Training]
    pruned: bool

    @property
    def losses(self) -> list[float]:
        """Nats per token, for each training that did not diverge."""
        return [training.loss for training in self.trainings if training.loss is not None]

    @property
    def diverged(self) -> bool:
        """Whether a training diverged; it is the last one then."""
        return len(self.losses) < len(self.trainings)

    @property
    def complete(self) -> bool:
        """Whether every seed has a loss."""
        return not self.pruned and not self.diverged

    @property
    def mean(self) -> float:
        """Nats per token, over the seeds; infinite if one diverged."""
        return math.inf if self.diverged else statistics.fmean(self.losses)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Complete trials by mean loss, then pruned ones, then diverged ones."""
    return sorted(trials, key=lambda trial: (trial.diverged, trial.pruned, trial.mean))


def write_trials(file: Path, trials: Iterable[Trial]) -> None:
    """Write one JSON object per line, atomically."""
    write_file(file, "".join(json.dumps(asdict(trial)) + "\n" for trial in trials))


def read_trials(file: Path) -> tuple[list[Trial], str | None]:
    """Read trials, and a message on unreadable lines, which are skipped. Empty without a file."""
    if not os.path.lexists(file):
        return [], None
    trials: list[Trial] = []
    problem = None
    lines: list[bytes] = []
    try:
        with reading(file, "its trials are trained again"):
            lines = file.read_bytes().splitlines()
    except UserError as error:
        problem = str(error)
    for number, line in enumerate(lines, 1):
        try:
            with reading(f"line {number} of {file}", "its trial is trained again"):
                trials.append(TypeAdapter(Trial).validate_json(line, strict=True))
        except UserError as error:
            problem = problem or str(error)
    return trials, problem
