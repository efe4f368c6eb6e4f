"""Which weights a figure is of: their digest is read before they are loaded, and compared after.

A checkpoint may be replaced at any moment by the training that writes it, so its name and its step
say too little.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError, reading
from lumenspark.files import weights_digest
from lumenspark.loading import load
from lumenspark.runs.checkpoint import MARKER, checkpoint_step, verify_checkpoint
from lumenspark.runs.run import model_source

ATTEMPTS = 5
PAUSE = 0.1  # seconds; a checkpoint is put in place in less


@dataclass(frozen=True)
class Weights:
    """What a model folder holds.

    Attributes:
        digest: :func:`.files.weights_digest`; None where there is none, as for a model on the hub.
        step: the optimizer step of a checkpoint; None for other models.
    """

    digest: str | None
    step: int | None


def load_to_score(name: str, checkpoint: str = "best", **options: Any) -> tuple[Any, Any, Weights]:
    """:func:`.loading.load`, and which weights they are. Its ``options`` are those of load.

    A checkpoint that is replaced meanwhile is loaded again. Raises UserError as load does, where a
    checkpoint is not what its ``complete.json`` says, and where it never stays the same.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        identity = None
        try:
            folder = Path(model_source(name, checkpoint))
            identity = _identity(folder)
            weights = weights_in(folder)
            model, tokenizer = load(name, checkpoint, **options)
            if weights_in(folder) == weights:
                return model, tokenizer, weights
        except (UserError, OSError):
            replaced = identity is None or identity != _identity(folder)
            if not replaced or attempt == ATTEMPTS - 1:
                raise
    raise UserError(
        f"the weights of {name} ({checkpoint}) change while they are loaded: try again when the "
        "training has ended, or name another checkpoint"
    )


def weights_in(folder: Path) -> Weights:
    """The weights that a folder holds now.

    Raises UserError where it is a checkpoint and not what its ``complete.json`` says.
    """
    step = None
    if (folder / MARKER).is_file():
        check_whole(folder)
        with reading(folder / MARKER, "choose another checkpoint"):
            step = checkpoint_step(folder)
    if not any(folder.glob("*.safetensors")):
        return Weights(None, step)
    return Weights(weights_digest(folder), step)


def check_whole(folder: Path) -> None:
    """Raise UserError where a checkpoint is not, file by file, what its ``complete.json`` says."""
    with reading(folder / MARKER, "choose another checkpoint"):
        damage = verify_checkpoint(folder)
    if damage:
        raise UserError(f"{damage}, so it is not what was trained: choose another checkpoint")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Another one for each folder that is put under a name; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
