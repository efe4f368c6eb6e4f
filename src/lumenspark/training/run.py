"""A run directory: where everything of one training lies, and how a name leads to it."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError
from lumenspark.files import locked, write_file

from .recipe import Recipe, dump_recipe, load_recipe

ID_LETTERS = "abcdefghijklmnopqrstuvwxyz23456789"
ID_LENGTH = 8


@dataclass(frozen=True)
class Run:
    """One run directory. Nothing is kept in memory: every method reads the files."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def recipe(self) -> Recipe:
        return load_recipe(str(self.path / "recipe.yaml"))

    def write_recipe(self, recipe: Recipe) -> None:
        write_file(self.path / "recipe.yaml", dump_recipe(recipe))

    def environment(self) -> dict[str, Any]:
        """Versions, machine, corpus and command line; empty where the run never started."""
        file = self.path / "environment.json"
        if not file.is_file():
            return {}
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}): train a new run") from error

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        if not self.metrics_file.is_file():
            return
        with self.metrics_file.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)

    def locked(self) -> AbstractContextManager[None]:
        """Inside, no other process trains this run. Raises UserError where one does."""
        return locked(self.path, f"run {self.id} is being trained by another process")

    def has_checkpoints(self) -> bool:
        """Whether a training has begun here: it saves before its first step."""
        return any(self.checkpoints.glob("[!.]*/complete.json"))

    def checkpoint(self, tag: str) -> Path:
        """A checkpoint's folder by its tag. Raises UserError naming those that exist."""
        path = self.checkpoints / tag
        if not (path / "complete.json").is_file():
            there = sorted(p.parent.name for p in self.checkpoints.glob("[!.]*/complete.json"))
            raise UserError(
                f"run {self.id} has no checkpoint {tag!r}: it has {', '.join(there) or 'none yet'}"
            )
        return path


def runs_folder() -> Path:
    """Where runs lie: ``LUMENSPARK_RUNS``, or ``runs`` in the current folder."""
    return Path(os.environ.get("LUMENSPARK_RUNS", "runs"))


def new_run(recipe: Recipe) -> Run:
    """A fresh directory with the recipe in it. Raises UserError where it cannot be written."""
    run_id = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
    run = Run(runs_folder() / run_id)
    try:
        run.checkpoints.mkdir(parents=True)
        run.write_recipe(recipe)
    except OSError as error:
        raise UserError(
            f"cannot write the run's folder {run.path}: {error.strerror}; choose another place "
            "with LUMENSPARK_RUNS"
        ) from error
    return run


def list_runs() -> list[Run]:
    """Every run, the oldest first."""
    found = [Run(file.parent) for file in runs_folder().glob("*/recipe.yaml")]
    return sorted(found, key=_started)


def find_run(name: str) -> Run | None:
    """The run that a path, an id, the unique beginning of an id or ``latest`` means.

    Returns None where nothing fits. Raises UserError where several runs begin so.
    """
    if (Path(name) / "recipe.yaml").is_file():
        return Run(Path(name).resolve())
    runs = list_runs()
    if name == "latest":
        return runs[-1] if runs else None
    exact = [run for run in runs if run.id == name]
    fitting = exact or [run for run in runs if name and run.id.startswith(name)]
    if len(fitting) > 1:
        ids = ", ".join(run.id for run in fitting)
        raise UserError(f"{name!r} could be several runs: {ids}; give more letters")
    return fitting[0] if fitting else None


def get_run(name: str) -> Run:
    """As :func:`find_run`. Raises UserError where nothing fits."""
    run = find_run(name)
    if run is None:
        raise UserError(
            f"there is no run {name!r} in {runs_folder().resolve()}: `lumenspark runs` lists them"
        )
    return run


def model_source(name: str, checkpoint: str = "best") -> str:
    """The folder or hub id that from_pretrained takes for ``name``.

    ``name`` is a folder (a saved model, or a run's), a run id, the unique beginning of one,
    ``latest``, or a hub id. Raises UserError where a run has no such checkpoint.
    """
    if (Path(name) / "config.json").is_file():
        return name
    run = find_run(name)
    if run is not None:
        return str(run.checkpoint(checkpoint))
    if Path(name).is_dir():
        raise UserError(f"the folder {name} holds neither a model (config.json) nor a run")
    return name


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _started(run: Run) -> tuple[str, float]:
    changed = (run.path / "recipe.yaml").stat().st_mtime
    by_file = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    try:
        return run.environment().get("started_at", by_file), changed
    except UserError:  # one damaged run must not hide the others
        return by_file, changed
