"""Load a model together with the digest of its weights, to identify what was scored.

Training may replace a checkpoint at any moment, so name and step do not identify its weights: the
digest is computed before loading and compared afterwards.
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
PAUSE = 0.1  # seconds; replacing a checkpoint takes less


@dataclass(frozen=True)
class Weights:
    """Identity of the weights in a model folder.

    Attributes:
        digest: :func:`.files.weights_digest`; None if unavailable, as for a hub model.
        step: optimizer step of a checkpoint; None for other models.
    """

    digest: str | None
    step: int | None


def load_to_score(name: str, checkpoint: str = "best", **options: Any) -> tuple[Any, Any, Weights]:
    """:func:`.loading.load` with its ``options``, and the identity of the weights.

    A checkpoint that is replaced during loading is loaded again. Raises UserError as load does,
    for a checkpoint that does not match its ``complete.json``, and for one that changes during
    every attempt.
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
        f"the weights of {name} ({checkpoint}) change during loading: try again after "
        "training, or use another checkpoint"
    )


def weights_in(folder: Path) -> Weights:
    """Identity of the current weights in a folder.

    Raises UserError for a checkpoint that does not match its ``complete.json``.
    """
    step = None
    if (folder / MARKER).is_file():
        check_checkpoint(folder)
        with reading(folder / MARKER, "choose another checkpoint"):
            step = checkpoint_step(folder)
    if not any(folder.glob("*.safetensors")):
        return Weights(None, step)
    return Weights(weights_digest(folder), step)


def check_checkpoint(folder: Path) -> None:
    """Raise UserError for a checkpoint with files that do not match its ``complete.json``."""
    with reading(folder / MARKER, "choose another checkpoint"):
        damage = verify_checkpoint(folder)
    if damage:
        raise UserError(f"{damage}: choose another checkpoint")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode of the folder, which change when it is replaced; None if missing."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
