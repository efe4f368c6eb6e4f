"""The book of records: a folder each, ``TRACK/DATE-WHAT-CHANGED/``, with everything that shows it.

    record.json              the figures of each seed, and what made them
    recipe.yaml              the whole recipe as run with the first seed
    environment.json         versions, machine, threads, corpus, of the first seed
    metrics-seed-0.jsonl     losses and validations over training, one file a seed

Nothing in them names a machine or a folder of it.
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

LOSS_LINES = 200  # of metrics to keep: some 35 kB
LONGEST_SLUG = 48


@dataclass(frozen=True)
class Record:
    """What ``record.json`` holds."""

    track: str
    date: str  # when it was measured: UTC, ISO 8601
    change: str
    recipe: str
    command: str  # of the first seed
    data: str  # what the text is called; of a folder its last part
    data_digest: str
    seeds: list[int]
    figures: Figures
    machine: str
    commit: str | None
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """The name of its folder."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.change.lower())[:LONGEST_SLUG].strip("-")
        return f"{self.date[:10]}-{slug or 'change'}"


@dataclass(frozen=True)
class Trial:
    """One seed, measured here. Recipe and environment as a run's files hold them.

    ``run`` is where that run lies, if it was one.
    """

    seed: int
    figures: dict[str, float]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    run: Path | None = None


def checkout() -> Path | None:
    """The checkout that this package is run from; None for an installed one."""
    root = Path(__file__).parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "records").is_dir() else None


def records_folder() -> Path:
    """Where the records lie: in the checkout, or as they were when the package was built."""
    root = checkout()
    return root / "records" if root else Path(__file__).parent / "rows"


def read_records(folder: Path, track: str) -> list[Record]:
    """The records of a track, the newest first. Raises UserError where one is damaged."""
    records = [_read(file) for file in (folder / track).glob("*/record.json")]
    return sorted(records, key=lambda record: record.date, reverse=True)


def figures_of(trials: list[Trial]) -> Figures:
    """The figures of several seeds by name."""
    return {key: [trial.figures[key] for trial in trials] for key in trials[0].figures}


def new_record(
    track: str, recipe: str, data: str, data_digest: str, change: str, trials: list[Trial]
) -> Record:
    """What there is to say about ``trials``, which were measured here, now and of one recipe."""
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
        machine=machine_in_words(first),
        commit=first["git_commit"],
        versions={package: first[package] for package in packages},
    )


def machine_in_words(environment: dict[str, Any]) -> str:
    """Processor or graphics card, system, cores and threads, from a run's environment."""
    threads = environment["threads"]
    words = "{processor}, {machine}, {cores} cores, ".format(**environment)
    return words + (f"{threads} threads" if threads > 1 else "1 thread")


def command_of(track: str, recipe: str, data: str, seed: int) -> str:
    """What to type to measure one seed."""
    if track == "speed":
        return shlex.join(["lumenspark", "record", "speed", "--data", data])
    return shlex.join(["lumenspark", "train", recipe, "--data", data, "--seed", str(seed)])


def text_name(data: str) -> str:
    """What a text is called on every machine: of a file or folder its last part."""
    return Path(data).resolve().name if Path(data).exists() else data


def write_record(folder: Path, record: Record, trials: list[Trial]) -> Path:
    """Add a record to the book. Returns its folder.

    Raises UserError where one of that track, day and change is there.
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
    """Every validation and rollback, and of the losses up to 200 lines, evenly spread."""
    kept = [line for line in lines if "loss" in line or "validation_loss" in line]
    losses = [n for n, line in enumerate(kept) if "loss" in line and "event" not in line]
    every = max(1, math.ceil(len(losses) / LOSS_LINES))
    left_out = set(losses) - set(losses[::-every])
    return [line for n, line in enumerate(kept) if n not in left_out]


def without_paths(value: Any) -> Any:
    """The same with the last part of each absolute path in the path's place."""
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
    """What in a record contradicts its folder or itself."""
    place = f"{record.track}/{record.name}"
    if place != file.parent.relative_to(file.parents[2]).as_posix():
        return f"by its track, date and change it belongs into {place}"
    if not record.seeds:
        return "it has no seeds"
    for column in TRACKS[record.track].columns:
        if len(record.figures.get(column.key, [])) != len(record.seeds):
            return f"{column.key} should have a value for each of its {len(record.seeds)} seeds"
    return None
