"""Checkpoints: folders for from_pretrained, written atomically.

A checkpoint is written under a temporary name, flushed, sealed with a completion marker
(``complete.json``: step, digests of all files, and the origin) and renamed. ``last`` is renamed to
``step-000500`` when the next one is complete, so a valid checkpoint exists at all times.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter

from lumenspark.earlier_names import TRAINER_STATE, renamed
from lumenspark.errors import UserError, first_line, reading
from lumenspark.files import (
    LARGE,
    delete,
    file_digest,
    flush_folder,
    give_default_permissions,
    sample_digest,
    set_aside,
    temporary_folder,
    write_json,
)

if TYPE_CHECKING:
    from torch import Tensor  # not loaded with this file: the list of runs reads markers alone

MARKER = "complete.json"
WEIGHTS = "model.safetensors"
TRAINER_TENSORS = "trainer.safetensors"
TRAINER_VALUES = "trainer.json"

Count = Annotated[int, Ge(0), Lt(2**63)]
Finite = Annotated[float, Ge(-1e300), Le(1e300)]


@dataclass(frozen=True)
class Origin:
    """The training of a checkpoint; None in checkpoints of earlier versions.

    ``run``: its :attr:`.run.Run.identity`; ``recipe``: its :func:`.run.recipe_digest`; ``tokens``:
    the digest of the token ids.
    """

    run: str | None = None
    recipe: str | None = None
    tokens: str | None = None


@dataclass(frozen=True)
class Marker(Origin):
    """Content of ``complete.json``.

    ``files``: SHA-256 by name. ``loss``: validation loss of ``best``, in nats per token.
    """

    step: Count = field(kw_only=True)
    files: dict[str, str] = field(kw_only=True)
    loss: Finite | None = None


@dataclass
class State:
    """Trainer state besides tensors, saved with every checkpoint."""

    step: Count = 0
    best_loss: Finite | None = None  # validation loss of ``best``, nats per token
    best_step: Count = 0
    lowest_loss: Finite | None = None  # lowest validation loss so far, for early stopping
    validations_without_gain: Count = 0
    lr_scale: Annotated[float, Gt(0), Le(1)] = 1.0  # halved after each non-finite step
    rollbacks: Count = 0
    loss_sum: Finite = 0.0  # over the steps since the last metrics line
    loss_count: Count = 0
    seconds: Annotated[float, Ge(0), Le(1e12)] = 0.0
    metrics_size: Count = 0  # bytes of metrics.jsonl that belong to this state


_MARKERS, _STATES = TypeAdapter(Marker), TypeAdapter(State)


@dataclass
class TrainerState:
    """State besides the weights for bit-exact resumption."""

    values: State
    tensors: "dict[str, Tensor]"


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
    """Write ``folder/tag``. Raises UserError on a write error; the old checkpoint stays."""
    from safetensors.torch import save_file

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
    except Exception as error:  # from Python, Rust or transformers
        raise UserError(
            f"could not save the checkpoint of step {step} in {folder}: {first_line(error)}; "
            "earlier checkpoints are intact, so free some disk space and resume the run"
        ) from error


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the latest ``keep`` of the ``step-N`` checkpoints."""
    earlier = sorted(_numbered(folder), key=lambda path: int(path.name[5:]))
    for path in earlier[: max(0, len(earlier) - keep)]:
        _remove(path)


def _remove(path: Path) -> None:
    """Delete a checkpoint atomically: it is renamed first."""
    with temporary_folder(path.parent, ".deleting-") as folder:
        path.rename(folder / path.name)


def recover_interrupted_saves(folder: Path) -> None:
    """Clean up after a killed save: delete partial folders, finish or undo a rename.

    The run must be locked.
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
    """The latest checkpoint that can be resumed from, and the problems of others.

    Invalid checkpoints are renamed to ``damaged-…``. ``misfit`` returns why an intact one cannot be
    used, or None. Raises UserError, and renames nothing, if none is valid.
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
            f"no checkpoint in {folder} can be resumed from: {'; '.join(found)}; restore one, "
            "or train a new run"
        )
    for path in set(candidates) - set(good):
        set_aside(path)
    return max(good, key=checkpoint_step), found


def verify_checkpoint(path: Path) -> str | None:
    """A message on a missing or altered file of a checkpoint; None for an intact one."""
    if not path.is_dir():
        return f"{path} is not a folder"
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
    """The ``complete.json`` of a checkpoint. Raises UserError if it is missing or damaged."""
    file = path / MARKER
    with reading(file, "the checkpoint is damaged, so use another one, or resume the run"):
        if not file.is_file():
            raise ValueError("it is missing or not a file")
        marker = _MARKERS.validate_json(file.read_bytes(), strict=True)
        if any(Path(name).name != name for name in marker.files):
            raise ValueError("it names files outside the checkpoint")
    return marker


def checkpoint_step(path: Path) -> int:
    """The step of a checkpoint. Raises UserError if its marker is damaged."""
    return read_marker(path).step


def read_state(path: Path) -> State:
    """The ``trainer.json`` of a checkpoint. Raises UserError if it is damaged."""
    with reading(path / TRAINER_VALUES, "the checkpoint is damaged, so resume from another one"):
        content = renamed(json.loads((path / TRAINER_VALUES).read_bytes()), TRAINER_STATE)
        content.setdefault(
            "lowest_loss", content["best_loss"]
        )  # earlier versions have best_loss only
        if missing := {each.name for each in fields(State)} - set(content):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        state = _STATES.validate_json(json.dumps(content), strict=True)
        step = checkpoint_step(path)
        if state.step != step:
            raise ValueError(f"it is of step {state.step}, and the checkpoint of {step}")
    return state


def load_trainer(path: Path) -> TrainerState:
    """The trainer state of a checkpoint from :func:`latest_valid_checkpoint`."""
    from safetensors.torch import load_file

    return TrainerState(read_state(path), load_file(path / TRAINER_TENSORS))


def load_weights(model: Any, path: Path) -> None:
    """Copy a checkpoint's weights into ``model``; tied weights are stored once."""
    from safetensors.torch import load_file

    stored = load_file(path / WEIGHTS)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.data.copy_(stored[name])


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a safetensors file. Raises UserError if it is damaged."""
    from safetensors import safe_open

    advice = "the checkpoint is damaged, so resume from another one"
    with reading(file, advice), safe_open(file, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _numbered(folder: Path) -> list[Path]:
    """The ``step-N`` checkpoints."""
    return [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]


def _cannot_resume(path: Path) -> str | None:
    files = read_marker(path).files
    if TRAINER_VALUES not in files or TRAINER_TENSORS not in files:
        return f"{path} has no trainer state"
    if WEIGHTS not in files:
        return f"{path} has no weights"
    try:
        read_state(path)
    except UserError as error:
        return first_line(error)
    return None


def _seal(staged: Path, step: int, about: dict[str, Any]) -> None:
    """Flush every file to disk, then write the completion marker."""
    give_default_permissions(staged)
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
    flush_folder(final.parent)
    if replaced.name.startswith(".replaced-") and os.path.lexists(replaced):
        delete(replaced)
