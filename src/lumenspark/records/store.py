"""Storage of records: a folder each, ``TRACK/DATE-CHANGE/``.

    record.json              results of each seed, and their settings
    recipe.yaml              recipe of the first seed
    environment.json         versions, machine, threads and corpus of the first seed
    metrics-seed-0.jsonl     training and validation losses, one file per seed

Host names and local paths are removed.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lumenspark.errors import UserError
from lumenspark.files import new_folder, write_file, write_json
from lumenspark.records.tracks import TRACKS, Figures

LOSS_LINES = 200  # of metrics to keep: about 35 kB
LONGEST_SLUG = 48


@dataclass(frozen=True)
class Record:
    """Content of ``record.json``."""

    track: str
    date: str  # of the measurement: UTC, ISO 8601
    change: str
    recipe: str
    command: str  # of the first seed
    data: str  # corpus name, without the path of a folder
    data_digest: str
    seeds: list[int]
    figures: Figures
    machine: str
    commit: str | None
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """The folder name."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.change.lower())[:LONGEST_SLUG].strip("-")
        return f"{self.date[:10]}-{slug or 'change'}"


@dataclass(frozen=True)
class Trial:
    """A measurement with one seed on this machine. Recipe and environment as in a run.

    ``run``: the run folder, if any.
    """

    seed: int
    figures: dict[str, float]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    run: Path | None = None


def checkout() -> Path | None:
    """The git checkout of this package; None for an installed one."""
    root = Path(__file__).parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "records").is_dir() else None


def records_folder() -> Path:
    """The records folder: in the checkout, or a copy in the installed package."""
    root = checkout()
    return root / "records" if root else Path(__file__).parent / "rows"


def read_records(folder: Path, track: str) -> list[Record]:
    """The records of a track, latest first. Raises UserError for a damaged one."""
    records = [_read(file) for file in (folder / track).glob("*/record.json")]
    return sorted(records, key=lambda record: record.date, reverse=True)


def figures_of(trials: list[Trial]) -> Figures:
    """Results by name, with a value per seed."""
    return {key: [trial.figures[key] for trial in trials] for key in trials[0].figures}


def new_record(
    track: str, recipe: str, data: str, data_digest: str, change: str, trials: list[Trial]
) -> Record:
    """The record of ``trials`` of one recipe, just measured on this machine."""
    first = trials[0].environment
    packages = ("lumenspark", "python", "torch", "transformers", "tokenizers", "numpy")
    return Record(
        track=track,
        date=first["started_at"],
        change=" ".join(change.split()),
        recipe=recipe,
        command=command_of(track, recipe, text_name(data), trials[0].seed),
        data=text_name(data),
        data_digest=data_digest,
        seeds=[trial.seed for trial in trials],
        figures=figures_of(trials),
        machine=describe_machine(first),
        commit=first["git_commit"],
        versions={package: first[package] for package in packages},
    )


def describe_machine(environment: dict[str, Any]) -> str:
    """CPU or GPU, system, cores and threads, from a run's environment."""
    threads = environment["threads"]
    words = "{processor}, {machine}, {cores} cores, ".format(**environment)
    return words + (f"{threads} threads" if threads > 1 else "1 thread")


def command_of(track: str, recipe: str, data: str, seed: int) -> str:
    """The command that measures a seed."""
    if track == "speed":
        return shlex.join(["lumenspark", "record", "speed", "--data", data])
    return shlex.join(["lumenspark", "train", recipe, "--data", data, "--seed", str(seed)])


def text_name(data: str) -> str:
    """The corpus name without local path."""
    return Path(data).resolve().name if Path(data).exists() else data


def write_record(folder: Path, record: Record, trials: list[Trial]) -> Path:
    """Write a record and return its folder.

    Raises UserError if a record of that track, day and change exists.
    """
    first = trials[0]
    environment = first.environment | {"command": record.command}
    with new_folder(folder / record.track / record.name) as made:
        recipe = yaml.safe_dump(without_paths(first.recipe), sort_keys=False, allow_unicode=True)
        write_file(made / "recipe.yaml", recipe)
        write_json(made / "environment.json", without_paths(environment))
        for trial in trials:
            lines = [json.dumps(line) + "\n" for line in brief_metrics(trial.metrics)]
            if lines:
                write_file(made / f"metrics-seed-{trial.seed}.jsonl", "".join(lines))
        write_json(made / "record.json", asdict(record))
    return folder / record.track / record.name


def brief_metrics(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All validations and events, and up to 200 evenly spaced lines of losses."""
    kept = [line for line in lines if "loss" in line or "validation_loss" in line]
    losses = [n for n, line in enumerate(kept) if "loss" in line and "event" not in line]
    every = max(1, math.ceil(len(losses) / LOSS_LINES))
    left_out = set(losses) - set(losses[::-every])
    return [line for n, line in enumerate(kept) if n not in left_out]


def without_paths(value: Any) -> Any:
    """A copy with absolute paths replaced by their last part."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name


def _read(file: Path) -> Record:
    from pydantic import TypeAdapter, ValidationError

    try:
        record = TypeAdapter(Record).validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{file} is damaged: {key}: {first['msg']}") from error
    problem = _disagreement(record, file)
    if problem:
        raise UserError(f"{file} is damaged: {problem}")
    return record


def _disagreement(record: Record, file: Path) -> str | None:
    """The first inconsistency of a record with its folder or itself; None if consistent."""
    place = f"{record.track}/{record.name}"
    if place != file.parent.relative_to(file.parents[2]).as_posix():
        return f"its track, date and change belong to the folder {place}"
    if not record.seeds:
        return "it has no seeds"
    for column in TRACKS[record.track].columns:
        if len(record.figures.get(column.key, [])) != len(record.seeds):
            return f"{column.key} must have a value for each of its {len(record.seeds)} seeds"
    return None
