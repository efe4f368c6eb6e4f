"""The run directory: its files, and lookup by name."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from lumenspark.earlier_names import with_current_keys, with_earlier_keys
from lumenspark.errors import UserError, quoted, reading
from lumenspark.files import (
    flush_folder,
    locked,
    remove_leftovers,
    temporary_folder,
    write_file,
    write_json,
)
from lumenspark.recipe import Recipe, dump_recipe, read_content, recipe_from
from lumenspark.runs.metrics import read_metrics

ID_LETTERS = "abcdefghijklmnopqrstuvwxyz23456789"
ID_LENGTH = 8
BEGINNING = ".beginning-"  # prefix of incomplete run folders
MAY_CHANGE = {  # keys of recipe section train that may change on resume
    *("steps", "early_stopping_patience", "log_every", "validate_every", "save_every"),
    *("keep_checkpoints", "max_epochs", "sample_every", "prompt", "compile", "threads", "tracker"),
}
ALWAYS_WRITTEN = {
    "name",
    "data",
    "seed",
    "model",
    "optim",
    "train",
}  # keys of every run's recipe.yaml
NO_RUNS = {"sweeps", "evaluations"}  # other folders in the runs folder


@dataclass(frozen=True)
class Run:
    """A run directory. Stateless: every method reads the files."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def identity(self) -> str:
        """The run id as recorded in checkpoints, unchanged when the folder is renamed or copied.

        Teachers append their number.
        """
        if self.path.parent.name == "teachers":
            return f"{Run(self.path.parents[1]).identity}/teachers/{self.id}"
        try:
            return str(self.environment().get("run", self.id))
        except UserError:
            return self.id

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def recipe(self) -> Recipe:
        file = self.path / "recipe.yaml"
        with reading(file, "put it back as it was, or train a new run"):
            content = with_current_keys(read_content(str(file)))
            recipe = recipe_from(content, source=str(file))
            keys = re.findall(r"^(\w+):", file.read_text(encoding="utf-8-sig"), re.MULTILINE)
            if not set(keys) >= ALWAYS_WRITTEN:  # defaults may differ from those of the run
                raise ValueError("keys are missing")
        return recipe

    def write_recipe(self, recipe: Recipe) -> None:
        write_file(self.path / "recipe.yaml", dump_recipe(recipe))

    def environment(self) -> dict[str, Any]:
        """Versions, machine, corpus and command line; empty without the file.

        Raises UserError for a damaged file.
        """
        file = self.path / "environment.json"
        with reading(file, f"`lumenspark resume {self.id}` writes it again"):
            if not file.is_file():
                return {}
            return dict(json.loads(file.read_text(encoding="utf-8")))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The measurements in metrics.jsonl: ``step``, ``tokens``, and numbers by name.

        Unreadable lines are skipped; :meth:`metrics_problem` reports them.
        """
        yield from read_metrics(self.metrics_file).measurements

    def events(self) -> Iterator[dict[str, Any]]:
        """Events such as a rollback to a checkpoint: ``step``, ``event``, …"""
        yield from read_metrics(self.metrics_file).events

    def metrics_problem(self) -> str | None:
        """A message about unreadable lines of metrics.jsonl; None for an intact file."""
        return read_metrics(self.metrics_file).problem

    def locked(self) -> AbstractContextManager[None]:
        """Lock the run for training. Raises UserError if another process holds the lock."""
        return locked(self.path, f"run {self.identity} is being trained by another process")

    def has_checkpoints(self) -> bool:
        """Whether training has started: a checkpoint is saved before the first step."""
        return any(self.checkpoints.glob("[!.]*"))

    def checkpoint(self, tag: str) -> Path:
        """The folder of a checkpoint. Raises UserError, listing existing ones, if it is missing."""
        path = self.checkpoints / tag
        if not (path / "complete.json").is_file():
            existing = sorted(p.parent.name for p in self.checkpoints.glob("[!.]*/complete.json"))
            raise UserError(
                f"run {self.id} has no checkpoint {quoted(tag)}: it has "
                f"{', '.join(existing) or 'none yet'}"
            )
        return path


def runs_folder() -> Path:
    """The runs folder: ``LUMENSPARK_RUNS``, or ``runs`` in the current folder."""
    return Path(os.environ.get("LUMENSPARK_RUNS", "runs"))


def new_run(recipe: Recipe, environment: dict[str, Any] | None = None) -> Run:
    """Create a run with a new id. Raises UserError if it cannot be written."""
    run_id = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
    return make_run(runs_folder() / run_id, recipe, environment)


def make_run(path: Path, recipe: Recipe, environment: dict[str, Any] | None = None) -> Run:
    """Create the run folder ``path`` with recipe and environment, atomically.

    Raises UserError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, BEGINNING) as folder:
            run = Run(folder)
            run.checkpoints.mkdir()
            run.write_recipe(recipe)
            if environment is not None:
                write_json(folder / "environment.json", {"run": path.name} | environment)
            folder.rename(path)
            flush_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write the run's folder {path}: {error.strerror}; choose another folder with "
            "LUMENSPARK_RUNS"
        ) from error
    return Run(path)


def tidy_runs() -> None:
    """Delete temporary files of killed processes in the runs folder.

    Those of running processes are locked and stay.
    """
    root = runs_folder()
    remove_leftovers(root, BEGINNING)
    sweeps = _folders(root / "sweeps")
    for sweep in sweeps:
        remove_leftovers(sweep)
    for run in [*_folders(root), *(run for sweep in sweeps for run in _folders(sweep))]:
        if _is_folder(run / "checkpoints"):
            tidy_run(Run(run))
    for folder in _folders(root / "evaluations"):
        remove_leftovers(folder)


def tidy_run(run: Run) -> None:
    """As :func:`tidy_runs`, for a run and its teachers."""
    teachers = run.path / "teachers"
    for path in (run.path, teachers, *_folders(teachers)):
        remove_leftovers(path)
        remove_leftovers(path / "checkpoints")


def list_runs() -> list[Run]:
    """All runs, oldest first, including those with damaged or missing files."""
    folders = [path for path in _folders(runs_folder()) if path.name not in NO_RUNS]
    return sorted((Run(path) for path in folders if _looks_like_a_run(path)), key=_started)


def find_run(name: str) -> Run | None:
    """The run named by a path, an id, a unique prefix of one, or ``latest``; None if none matches.

    Raises UserError for an ambiguous prefix.
    """
    if _looks_like_a_run(Path(name)):
        return Run(Path(name).resolve())
    runs = list_runs()
    if name == "latest":
        return runs[-1] if runs else None
    exact = [run for run in runs if run.id == name]
    matching = exact or [run for run in runs if name and run.id.startswith(name)]
    if len(matching) > 1:
        ids = ", ".join(run.id for run in matching)
        raise UserError(f"{quoted(name)} could be several runs: {ids}; give more letters")
    return matching[0] if matching else None


def run_named(model: str) -> Run | None:
    """The run that the name of a model means; None for a model folder or a hub id."""
    return None if (Path(model) / "config.json").is_file() else find_run(model)


def get_run(name: str) -> Run:
    """As :func:`find_run`. Raises UserError if none matches."""
    run = find_run(name)
    if run is None:
        raise UserError(
            f"there is no run {quoted(name)} in {runs_folder().resolve()}: `lumenspark runs` lists "
            "them"
        )
    return run


def model_source(name: str, checkpoint: str = "best") -> str:
    """The folder or hub id that from_pretrained takes for ``name``.

    ``name`` is a model folder, a run folder, a run id or a unique prefix of one, ``latest``, or a
    hub id. Raises UserError for a missing checkpoint.
    """
    if (Path(name) / "config.json").is_file():
        return name
    run = find_run(name)
    if run is not None:
        return str(run.checkpoint(checkpoint))
    if Path(name).is_dir():
        raise UserError(f"the folder {name} has neither a model (config.json) nor a run")
    return name


def now() -> str:
    """The current UTC time, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 (hex) of the recipe keys that determine the trained weights.

    Excluded: the corpus, since checkpoints have the digest of its token ids, and keys that may
    change on resume (steps, logging, validation, saving, inspection, names, device).
    """
    return _digest(_decisive(recipe))


def earlier_recipe_digest(recipe: Recipe) -> str:
    """:func:`recipe_digest` with earlier key names, as in checkpoints of earlier runs."""
    return _digest(with_earlier_keys(_decisive(recipe)))


def _decisive(recipe: Recipe) -> dict[str, Any]:
    content = asdict(recipe)
    kept = {key: content[key] for key in ("seed", "model", "optim", "train", "distill")}
    kept["train"] = {k: v for k, v in kept["train"].items() if k not in MAY_CHANGE}
    del kept["distill"]["budget_fraction"]
    return kept


def _digest(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _folders(parent: Path) -> list[Path]:
    """The non-hidden folders in ``parent``, sorted by name."""
    if not _is_folder(parent):
        return []
    paths = sorted(parent.iterdir())
    return [path for path in paths if not path.name.startswith(".") and _is_folder(path)]


def _is_folder(path: Path) -> bool:
    """False also without permission."""
    with suppress(OSError):
        return path.is_dir()
    return False


def _looks_like_a_run(path: Path) -> bool:
    """Whether the folder is a run, possibly with missing files."""
    if os.path.lexists(path / "recipe.yaml"):
        return True
    return os.path.lexists(path / "environment.json") and _is_folder(path / "checkpoints")


def _started(run: Run) -> tuple[str, float]:
    """Start time of a run, for sorting; never raises for a damaged run."""
    changed = 0.0
    with suppress(OSError):
        changed = (run.path / "recipe.yaml").stat().st_mtime
    by_file = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    try:
        started = run.environment().get("started_at")
    except UserError:
        started = None
    return started if isinstance(started, str) else by_file, changed
