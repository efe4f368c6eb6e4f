"""Checkpoints: folders that from_pretrained loads, written whole or not at all.

A checkpoint is made under a temporary name, flushed, given its completion marker
(``complete.json``: the step, a digest of every file, and what training it is of) and renamed.
``last`` becomes ``step-000500`` when the next one is there, so a good one exists at every moment.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumenspark.errors import UserError, first_line, reading
from lumenspark.files import (
    LARGE,
    delete,
    file_digest,
    flush_folder,
    sample_digest,
    set_aside,
    temporary_folder,
    write_json,
)
from lumenspark.runs.earlier_names import TRAINER_STATE, renamed

MARKER = "complete.json"
WEIGHTS = "model.safetensors"
TRAINER_TENSORS = "trainer.safetensors"
TRAINER_VALUES = "trainer.json"

Count = Annotated[int, Ge(0), Lt(2**63)]
Finite = Annotated[float, Ge(-1e300), Le(1e300)]


@dataclass(frozen=True)
class Origin:
    """What training a checkpoint is of. Checkpoints of earlier versions do not say: None.

    ``run``: its :attr:`.run.Run.identity`; ``recipe``: its :func:`.run.recipe_digest`; ``tokens``:
    the digest of the token ids.
    """

    run: str | None = None
    recipe: str | None = None
    tokens: str | None = None


@dataclass(frozen=True)
class Marker(Origin):
    """What ``complete.json`` holds.

    ``files``: SHA-256 of each. ``loss``: of ``best``, its validation loss in nats per token.
    """

    step: Count = field(kw_only=True)
    files: dict[str, str] = field(kw_only=True)
    loss: Finite | None = None


@dataclass
class State:
    """What changes from step to step, besides tensors. Saved with every checkpoint."""

    step: Count = 0
    best_loss: Finite | None = None  # nats per token, on the validation windows: of ``best``
    best_step: Count = 0
    lowest_loss: Finite | None = None  # of the validations up to this step; patience follows it
    validations_without_gain: Count = 0
    lr_scale: Annotated[float, Gt(0), Le(1)] = 1.0  # halved after each non-finite step
    rollbacks: Count = 0
    loss_sum: Finite = 0.0  # over the steps since the last line of metrics
    loss_count: Count = 0
    seconds: Annotated[float, Ge(0), Le(1e12)] = 0.0
    metrics_size: Count = 0  # bytes of metrics.jsonl that belong to this state


_MARKERS, _STATES = TypeAdapter(Marker), TypeAdapter(State)


@dataclass
class TrainerState:
    """What a run needs, besides the weights, to go on bit for bit."""

    values: State
    tensors: dict[str, Tensor]


def save_checkpoint(
    folder: Path,
    tag: str,
    step: int,
    model: Any,
    tokenizer: Any,
    trainer: TrainerState | None = None,
    *,
    origin: Origin | None = None,
    loss: float | None = None,
) -> None:
    """Write ``folder/tag``. Raises UserError where the disk refuses; what was there stays."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, ".saving-") as staged:
            model.save_pretrained(staged)
            tokenizer.save_pretrained(staged)
            if trainer is not None:
                tensors = {name: tensor.contiguous() for name, tensor in trainer.tensors.items()}
                save_file(tensors, staged / TRAINER_TENSORS)
                write_json(staged / TRAINER_VALUES, asdict(trainer.values))
            about = asdict(origin or Origin()) | {"loss": loss}
            _seal(staged, step, {key: value for key, value in about.items() if value is not None})
            _put_in_place(staged, folder / tag)
    except Exception as error:  # files are written by Python, Rust and transformers in turn
        raise UserError(
            f"could not save the checkpoint of step {step} in {folder}: {first_line(error)}; "
            "what was saved before is untouched, so make room and resume the run"
        ) from error


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` of the ``step-N`` checkpoints."""
    earlier = sorted(_numbered(folder), key=lambda path: int(path.name[5:]))
    for path in earlier[: max(0, len(earlier) - keep)]:
        _remove(path)


def _remove(path: Path) -> None:
    """Delete a checkpoint so that a kill leaves no half of it under its name."""
    with temporary_folder(path.parent, ".deleting-") as folder:
        path.rename(folder / path.name)


def recover_interrupted_saves(folder: Path) -> None:
    """Mend what a kill in the middle of a save left: half-made folders, a move half done.

    Only while the run is locked.
    """
    for path in folder.glob(".saving-*"):
        delete(path)
    for path in folder.glob(".replaced-*"):
        final = folder / path.name.removeprefix(".replaced-")
        if final.exists():
            delete(path)
        else:
            path.rename(final)


def latest_valid_checkpoint(
    folder: Path, misfit: Callable[[Path], str | None] | None = None
) -> tuple[Path, list[str]]:
    """The newest checkpoint that can be resumed from, and what is wrong with others.

    Those are renamed to ``damaged-…``, out of the way of what is saved next. ``misfit`` says why
    one that is whole cannot be used, or None. Raises UserError, and renames nothing, where there
    is no good one.
    """
    candidates = [path for path in (folder / "last", *_numbered(folder)) if os.path.lexists(path)]
    if not candidates:
        raise UserError(
            f"{folder} holds no checkpoint to resume from: train a new run, with "
            f"`lumenspark train {folder.parent / 'recipe.yaml'}`"
        )
    problems = {
        path: verify_checkpoint(path) or _cannot_resume(path) or (misfit(path) if misfit else None)
        for path in candidates
    }
    found = [problem for problem in problems.values() if problem]
    good = [path for path in candidates if problems[path] is None]
    if not good:
        raise UserError(
            f"no checkpoint in {folder} can be resumed from: {'; '.join(found)}; put back what was "
            "there, or train a new run"
        )
    for path in set(candidates) - set(good):
        set_aside(path)
    return max(good, key=checkpoint_step), found


def verify_checkpoint(path: Path) -> str | None:
    """One sentence on what is missing or altered in a checkpoint; None where it is whole."""
    if not path.is_dir():
        return f"{path} is no folder"
    if not os.path.lexists(path / MARKER):
        return f"{path} is not complete (no {MARKER})"
    try:
        files = read_marker(path).files
    except UserError:
        return f"{path / MARKER} is damaged"
    for name, digest in files.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        try:
            if file_digest(file) != digest:
                return f"{file} was truncated or altered"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
    return None


def read_marker(path: Path) -> Marker:
    """A checkpoint's ``complete.json``. Raises UserError where it is missing or damaged."""
    file = path / MARKER
    with reading(file, "the checkpoint is damaged, so name another one, or resume the run"):
        if not file.is_file():
            raise ValueError("it is missing, or no file")
        marker = _MARKERS.validate_json(file.read_bytes(), strict=True)
        if any(Path(name).name != name for name in marker.files):
            raise ValueError("it names files outside of the checkpoint")
    return marker


def checkpoint_step(path: Path) -> int:
    """The step at which a checkpoint was made. Raises UserError where its marker is damaged."""
    return read_marker(path).step


def read_state(path: Path) -> State:
    """The values in a checkpoint's ``trainer.json``. Raises UserError where it is damaged."""
    with reading(path / TRAINER_VALUES, "the checkpoint is damaged, so resume from another one"):
        content = renamed(json.loads((path / TRAINER_VALUES).read_bytes()), TRAINER_STATE)
        content.setdefault("lowest_loss", content["best_loss"])  # earlier versions had one of them
        if missing := {each.name for each in fields(State)} - set(content):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        state = _STATES.validate_json(json.dumps(content), strict=True)
        step = checkpoint_step(path)
        if state.step != step:
            raise ValueError(f"it is of step {state.step}, and the checkpoint of {step}")
    return state


def load_trainer(path: Path) -> TrainerState:
    """The trainer's state in a checkpoint that :func:`latest_valid_checkpoint` found."""
    return TrainerState(read_state(path), load_file(path / TRAINER_TENSORS))


def load_weights(model: Any, path: Path) -> None:
    """Copy a checkpoint's weights into ``model``; tied weights are stored once."""
    stored = load_file(path / WEIGHTS)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.data.copy_(stored[name])


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file. Raises UserError where it is damaged."""
    advice = "the checkpoint is damaged, so resume from another one"
    with reading(file, advice), safe_open(file, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _numbered(folder: Path) -> list[Path]:
    """The ``step-N`` checkpoints, and no folder that somebody named alike."""
    return [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]


def _cannot_resume(path: Path) -> str | None:
    files = read_marker(path).files
    if TRAINER_VALUES not in files or TRAINER_TENSORS not in files:
        return f"{path} holds no trainer state"
    if WEIGHTS not in files:
        return f"{path} holds no weights"
    try:
        read_state(path)
    except UserError as error:
        return first_line(error)
    return None


def _seal(staged: Path, step: int, about: dict[str, Any]) -> None:
    """Flush every file to disk, then write the completion marker."""
    digests, samples = {}, {}
    for path in sorted(staged.iterdir()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        digests[path.name] = file_digest(path)
        if path.stat().st_size >= LARGE:
            samples[path.name] = sample_digest(path)
    write_json(staged / MARKER, {"step": step, **about, "files": digests, "samples": samples})


def _put_in_place(staged: Path, final: Path) -> None:
    replaced = final.parent / f".replaced-{final.name}"
    if final.name == "last" and final.exists():
        replaced = final.parent / f"step-{checkpoint_step(final):06d}"
    if os.path.lexists(replaced):
        _remove(replaced)
    if os.path.lexists(final):
        final.rename(replaced)
    staged.rename(final)
    final.chmod(0o755)  # a temporary folder is for its owner alone
    flush_folder(final.parent)
    if replaced.name.startswith(".replaced-") and os.path.lexists(replaced):
        delete(replaced)
