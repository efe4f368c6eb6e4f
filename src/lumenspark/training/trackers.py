"""Experiment trackers, which receive a run's metrics; each is an optional extra."""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lumenspark.errors import UserError, first_line
from lumenspark.recipe import Recipe


class Tracker(Protocol):
    """A receiver of metrics."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


def tracker_module(name: str) -> Any:
    """The package behind a tracker. Raises UserError if it is not installed."""
    try:
        return import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise UserError(
            f"train.tracker is {name}, which is not installed: pip install 'lumenspark[{name}]'"
        ) from error


def open_tracker(name: str, run_path: Path, recipe: Recipe) -> Tracker | None:
    """The tracker of that name; None for ``none``. Raises UserError if it does not start."""
    if name == "none":
        return None
    module = tracker_module(name)
    try:
        if name == "tensorboard":
            return _TensorBoard(module.SummaryWriter(str(run_path / "tensorboard")))
        return _Session(module.init(project=recipe.name, name=run_path.name))
    except Exception as error:  # server unreachable, login missing, name rejected
        raise UserError(
            f"train.tracker {name} does not start ({first_line(error)}): set it up, or set "
            "train.tracker to none"
        ) from error


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


class _Session:
    """A run of wandb or of trackio, which has the same interface."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._session.log(metrics, step=step)

    def finish(self) -> None:
        self._session.finish()
