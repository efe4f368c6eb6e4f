"""A run directory: where everything of one training lies, and how a name leads to it."""

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
from lumenspark.runs.earlier_names import with_current_keys, with_earlier_keys
from lumenspark.runs.metrics import read_metrics

ID_LETTERS = "abcdefghijklmnopqrstuvwxyz23456789"
ID_LENGTH = 8
BEGINNING = ".beginning-"  # how the name of a run's folder starts until it is whole
MAY_CHANGE = {  # keys of a recipe's section train
    *("steps", "early_stopping_patience", "log_every", "validate_every", "save_every"),
    *("keep_checkpoints", "sample_every", "prompt", "compile", "threads", "tracker"),
}
ALWAYS_WRITTEN = {"name", "data", "seed", "model", "optim", "train"}  # of a run's recipe
NO_RUNS = {"sweeps", "evaluations"}  # what else lies in the runs folder


@dataclass(frozen=True)
class Run:
    """One run directory. Nothing is kept in memory: every method reads the files."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def identity(self) -> str:
        """What a checkpoint calls the run that it is of: the id that the run began with.

        It stays where the folder is renamed or copied. A teacher's is its run's and its number.
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
            if not set(keys) >= ALWAYS_WRITTEN:  # a default would be another training's
                raise ValueError("it has lost keys")
        return recipe

    def write_recipe(self, recipe: Recipe) -> None:
        write_file(self.path / "recipe.yaml", dump_recipe(recipe))

    def environment(self) -> dict[str, Any]:
        """Versions, machine, corpus and command line; empty where there is no such file.

        Raises UserError where it is damaged.
        """
        file = self.path / "environment.json"
        with reading(file, f"`lumenspark resume {self.id}` writes it again"):
            if not file.is_file():
                return {}
            return dict(json.loads(file.read_text(encoding="utf-8")))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The measurements in metrics.jsonl: ``step``, ``tokens``, and numbers by name.

        What cannot be read of it is passed over: :meth:`metrics_problem` says what that is.
        """
        yield from read_metrics(self.metrics_file).measurements

    def events(self) -> Iterator[dict[str, Any]]:
        """What happened to the run, such as going back to a checkpoint: ``step``, ``event``, …"""
        yield from read_metrics(self.metrics_file).events

    def metrics_problem(self) -> str | None:
        """One sentence where metrics.jsonl, or some of its lines, cannot be read."""
        return read_metrics(self.metrics_file).problem

    def locked(self) -> AbstractContextManager[None]:
        """Inside, no other process trains this run. Raises UserError where one does."""
        return locked(self.path, f"run {self.identity} is being trained by another process")

    def has_checkpoints(self) -> bool:
        """Whether a training has begun here, damaged or not: it saves before its first step."""
        return any(self.checkpoints.glob("[!.]*"))

    def checkpoint(self, tag: str) -> Path:
        """A checkpoint's folder by its tag. Raises UserError naming those that exist."""
        path = self.checkpoints / tag
        if not (path / "complete.json").is_file():
            there = sorted(p.parent.name for p in self.checkpoints.glob("[!.]*/complete.json"))
            raise UserError(
                f"run {self.id} has no checkpoint {quoted(tag)}: it has "
                f"{', '.join(there) or 'none yet'}"
            )
        return path


def runs_folder() -> Path:
    """Where runs lie: ``LUMENSPARK_RUNS``, or ``runs`` in the current folder."""
    return Path(os.environ.get("LUMENSPARK_RUNS", "runs"))


def new_run(recipe: Recipe, environment: dict[str, Any] | None = None) -> Run:
    """A fresh run with these files in it. Raises UserError where it cannot be written."""
    run_id = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
    return make_run(runs_folder() / run_id, recipe, environment)


def make_run(path: Path, recipe: Recipe, environment: dict[str, Any] | None = None) -> Run:
    """The run folder ``path``, which appears with these files in it, or not at all.

    Raises UserError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, BEGINNING) as folder:
            run = Run(folder)
            run.checkpoints.mkdir()
            run.write_recipe(recipe)
            if environment is not None:
                write_json(folder / "environment.json", {"run": path.name} | environment)
            folder.chmod(0o755)  # a temporary folder is for its owner alone
            folder.rename(path)
            flush_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write the run's folder {path}: {error.strerror}; choose another place with "
            "LUMENSPARK_RUNS"
        ) from error
    return Run(path)


def tidy_runs() -> None:
    """Delete what processes that were killed have left half-made in the runs folder.

    What a process that is alive is making stays: it holds a lock on it.
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
    """As :func:`tidy_runs`, in one run and its teachers'."""
    teachers = run.path / "teachers"
    for path in (run.path, teachers, *_folders(teachers)):
        remove_leftovers(path)
        remove_leftovers(path / "checkpoints")


def list_runs() -> list[Run]:
    """Every run, the oldest first; those too whose files are damaged or in part missing."""
    folders = [path for path in _folders(runs_folder()) if path.name not in NO_RUNS]
    return sorted((Run(path) for path in folders if _looks_like_a_run(path)), key=_started)


def find_run(name: str) -> Run | None:
    """The run that a path, an id, the unique beginning of an id or ``latest`` means.

    Returns None where nothing fits. Raises UserError where several runs begin so.
    """
    if _looks_like_a_run(Path(name)):
        return Run(Path(name).resolve())
    runs = list_runs()
    if name == "latest":
        return runs[-1] if runs else None
    exact = [run for run in runs if run.id == name]
    fitting = exact or [run for run in runs if name and run.id.startswith(name)]
    if len(fitting) > 1:
        ids = ", ".join(run.id for run in fitting)
        raise UserError(f"{quoted(name)} could be several runs: {ids}; give more letters")
    return fitting[0] if fitting else None


def get_run(name: str) -> Run:
    """As :func:`find_run`. Raises UserError where nothing fits."""
    run = find_run(name)
    if run is None:
        raise UserError(
            f"there is no run {quoted(name)} in {runs_folder().resolve()}: `lumenspark runs` lists "
            "them"
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


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 (hex) over the keys of a recipe that decide which weights its training gives.

    Left out: the text, since a checkpoint holds the digest of its token ids, and what may change
    when a run is resumed (number of steps, logging, validation, saving, inspection, names, device).
    """
    return _digest(_decisive(recipe))


def earlier_recipe_digest(recipe: Recipe) -> str:
    """:func:`recipe_digest` as runs have it that began under the earlier names of keys."""
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
    """The folders in ``parent``, by name, without those that are hidden."""
    if not _is_folder(parent):
        return []
    paths = sorted(parent.iterdir())
    return [path for path in paths if not path.name.startswith(".") and _is_folder(path)]


def _is_folder(path: Path) -> bool:
    """False too where the system does not let this be seen."""
    with suppress(OSError):
        return path.is_dir()
    return False


def _looks_like_a_run(path: Path) -> bool:
    """Whether a training has made this folder; one of its files may have gone since."""
    if os.path.lexists(path / "recipe.yaml"):
        return True
    return os.path.lexists(path / "environment.json") and _is_folder(path / "checkpoints")


def _started(run: Run) -> tuple[str, float]:
    """When a run began. One that is damaged must not hide the others."""
    changed = 0.0
    with suppress(OSError):
        changed = (run.path / "recipe.yaml").stat().st_mtime
    by_file = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    try:
        started = run.environment().get("started_at")
    except UserError:
        started = None
    return started if isinstance(started, str) else by_file, changed
