"""Metrics: always to metrics.jsonl, and to a tracker where one is asked for by name."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lumenspark.errors import UserError

from .recipe import Recipe


class MetricsLog:
    """The file metrics.jsonl, one object a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: dict[str, Any]) -> None:
        self._file.write(json.dumps(metrics, ensure_ascii=False) + "\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes so far, which are on the disk when this returns."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Forget everything after the first ``size`` bytes: a run goes back to a checkpoint."""
        self._file.truncate(size)
        self._file.seek(size)

    def close(self) -> None:
        self._file.close()


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
    """The tracker of that name, None for ``none``."""
    if name == "none":
        return None
    module = tracker_module(name)
    if name == "tensorboard":
        return _TensorBoard(module.SummaryWriter(str(run_path / "tensorboard")))
    return _Session(module.init(project=recipe.name, name=run_path.name))


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
