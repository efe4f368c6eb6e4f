"""Trackers: other places for a run's metrics, each an optional extra."""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lumenspark.errors import UserError, first_line
from lumenspark.recipe import Recipe


class Tracker(Protocol):
    """Somewhere else that metrics go."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


def tracker_module(name: str) -> Any:
    """The package behind a tracker. Raises UserError where it is not installed."""
    try:
        return import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise UserError(
            f"train.tracker is {name}, which is not installed: pip install 'lumenspark[{name}]'"
        ) from error


def open_tracker(name: str, run_path: Path, recipe: Recipe) -> Tracker | None:
    """The tracker of that name, None for ``none``. Raises UserError where it does not start."""
    if name == "none":
        return None
    module = tracker_module(name)
    try:
        if name == "tensorboard":
            return _TensorBoard(module.SummaryWriter(str(run_path / "tensorboard")))
        return _Session(module.init(project=recipe.name, name=run_path.name))
    except Exception as error:  # a server out of reach, a missing login, a name it does not take
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
    """wandb's run, and trackio's, which has the same face."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._session.log(metrics, step=step)

    def finish(self) -> None:
        self._session.finish()
