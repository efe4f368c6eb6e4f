"""What a sweep finds out: trials, each of some trainings. One line of results.jsonl a trial."""

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
        loss: nats per token on the validation windows, the lowest of the run's validations; None
            where the training diverged.
        best_step: where that was.
        steps: that were taken; fewer than the recipe's where its patience was over, or it diverged.
        tokens: predictions that were learned from.
        seconds: of training, validations and saving included.
        run: the run's folder. Of its checkpoints ``best`` is kept.
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
    """Values for the keys that vary, and what their trainings gave.

    ``pruned``: not trained with all seeds, because it was worse than most.
    """

    number: int
    values: dict[str, Any]
    trainings: list[Training]
    pruned: bool

    @property
    def losses(self) -> list[float]:
        """Nats per token, one for each training that did not diverge."""
        return [training.loss for training in self.trainings if training.loss is not None]

    @property
    def diverged(self) -> bool:
        """Whether one of the trainings did; no other seed was tried after it."""
        return len(self.losses) < len(self.trainings)

    @property
    def complete(self) -> bool:
        """Whether there is a loss for every seed."""
        return not self.pruned and not self.diverged

    @property
    def mean(self) -> float:
        """Nats per token, over the seeds; infinite where one of them diverged."""
        return math.inf if self.diverged else statistics.fmean(self.losses)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (n - 1 in the denominator); None below two."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Complete trials by their mean, then pruned ones, whose mean is over fewer seeds."""
    return sorted(trials, key=lambda trial: (trial.diverged, trial.pruned, trial.mean))


def write_trials(file: Path, trials: Iterable[Trial]) -> None:
    """One JSON object a line; all of them, or the old file stays."""
    write_file(file, "".join(json.dumps(asdict(trial)) + "\n" for trial in trials))


def read_trials(file: Path) -> tuple[list[Trial], str | None]:
    """What :func:`write_trials` wrote; nothing where there is no such file.

    Lines that cannot be read are passed over, and the second value says so in one sentence.
    """
    if not os.path.lexists(file):
        return [], None
    trials: list[Trial] = []
    problem = None
    lines: list[bytes] = []
    try:
        with reading(file, "what it lacks is trained again"):
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
