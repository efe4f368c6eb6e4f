"""Checkpoints: folders that from_pretrained loads, written whole or not at all.

A checkpoint is made under a temporary name, flushed, given its completion marker
(``complete.json``: the step, and a digest of every file) and renamed. ``last`` becomes
``step-000500`` when the next one is there, so a good one exists at every moment.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.files import file_digest, flush_folder, write_json

MARKER = "complete.json"
TRAINER_TENSORS = "trainer.safetensors"
TRAINER_VALUES = "trainer.json"


@dataclass
class TrainerState:
    """What a run needs, besides the weights, to go on bit for bit."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(
    folder: Path,
    tag: str,
    step: int,
    model: Any,
    tokenizer: Any,
    trainer: TrainerState | None = None,
) -> None:
    """Write ``folder/tag``. Raises UserError where the disk refuses; what was there stays."""
    staged: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder, prefix=".saving-"))
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        if trainer is not None:
            tensors = {name: tensor.contiguous() for name, tensor in trainer.tensors.items()}
            save_file(tensors, staged / TRAINER_TENSORS)
            write_json(staged / TRAINER_VALUES, trainer.values)
        _seal(staged, step)
        _put_in_place(staged, folder / tag)
    except Exception as error:  # files are written by Python, Rust and transformers in turn
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
        raise UserError(
            f"could not save the checkpoint of step {step} in {folder}: {error}; what was saved "
            "before is untouched, so make room and resume the run"
        ) from error


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` of the ``step-N`` checkpoints."""
    earlier = sorted(_numbered(folder), key=lambda path: int(path.name[5:]))
    for path in earlier[: max(0, len(earlier) - keep)]:
        shutil.rmtree(path)


def tidy(folder: Path) -> None:
    """Mend what a kill in the middle of a save left: half-made folders, a move half done."""
    for path in folder.glob(".saving-*"):
        shutil.rmtree(path)
    for path in folder.glob(".replaced-*"):
        final = folder / path.name.removeprefix(".replaced-")
        if final.exists():
            shutil.rmtree(path)
        else:
            path.rename(final)


def newest_good(folder: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint that can be resumed from, and what is wrong with others.

    Those are renamed to ``damaged-…``, out of the way of what is saved next. Raises UserError,
    and renames nothing, where there is no good one.
    """
    candidates = [path for path in (folder / "last", *_numbered(folder)) if path.is_dir()]
    if not candidates:
        raise UserError(f"{folder} holds no checkpoint to resume from")
    problems = {path: find_damage(path) or _cannot_resume(path) for path in candidates}
    found = [problem for problem in problems.values() if problem]
    good = [path for path in candidates if problems[path] is None]
    if not good:
        raise UserError(f"no checkpoint in {folder} can be resumed from: {'; '.join(found)}")
    for path in set(candidates) - set(good):
        aside = folder / f"damaged-{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return max(good, key=checkpoint_step), found


def find_damage(path: Path) -> str | None:
    """One sentence on what is missing or altered in a checkpoint; None where it is whole."""
    try:
        digests = dict(json.loads((path / MARKER).read_text())["files"])
    except FileNotFoundError:
        return f"{path} is not complete (no {MARKER})"
    except (ValueError, KeyError, TypeError):
        return f"{path / MARKER} is damaged"
    for name, digest in digests.items():
        if not (path / name).is_file():
            return f"{path / name} is missing"
        if file_digest(path / name) != digest:
            return f"{path / name} was truncated or altered"
    return None


def checkpoint_step(path: Path) -> int:
    """The step at which a checkpoint was made."""
    return int(json.loads((path / MARKER).read_text())["step"])


def load_trainer(path: Path) -> TrainerState:
    """The trainer's state in a checkpoint that :func:`find_damage` found whole."""
    values = json.loads((path / TRAINER_VALUES).read_text())
    return TrainerState(values, load_file(path / TRAINER_TENSORS))


def load_weights(model: Any, path: Path) -> None:
    """Copy a checkpoint's weights into ``model``; tied weights are stored once."""
    stored = load_file(path / "model.safetensors")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.data.copy_(stored[name])


def _numbered(folder: Path) -> list[Path]:
    """The ``step-N`` checkpoints, and no folder that somebody named alike."""
    return [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]


def _cannot_resume(path: Path) -> str | None:
    return None if (path / TRAINER_VALUES).is_file() else f"{path} holds no trainer state"


def _seal(staged: Path, step: int) -> None:
    """Flush every file to disk, then write the completion marker."""
    digests = {}
    for path in sorted(staged.iterdir()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        digests[path.name] = file_digest(path)
    write_json(staged / MARKER, {"step": step, "files": digests})


def _put_in_place(staged: Path, final: Path) -> None:
    replaced = final.parent / f".replaced-{final.name}"
    if final.name == "last" and final.exists():
        replaced = final.parent / f"step-{checkpoint_step(final):06d}"
    if replaced.exists():
        shutil.rmtree(replaced)
    if final.exists():
        final.rename(replaced)
    staged.rename(final)
    final.chmod(0o755)  # a temporary folder is for its owner alone
    flush_folder(final.parent)
    if replaced.name.startswith(".replaced-") and replaced.exists():
        shutil.rmtree(replaced)
