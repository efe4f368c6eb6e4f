"""The files of a run, parsed for the model card, which has no other source."""

import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lumenspark.errors import UserError, printable, quoted, reading
from lumenspark.evaluation.results import of_weights, read_evaluations
from lumenspark.evaluation.weights import check_checkpoint, weights_in
from lumenspark.runs.metrics import read_metrics
from lumenspark.runs.samples import Sample, read_samples


@dataclass(frozen=True)
class RunFiles:
    """Parsed files of a run folder and one of its checkpoints."""

    run_id: str
    checkpoint: str
    folder: Path  # of the checkpoint; absolute
    recipe: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]  # of the current weights of the checkpoint
    samples: list[Sample]  # of these weights
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    shapes: dict[str, list[int]]  # each tensor in model.safetensors
    checkpoint_step: int | None
    has_curves: bool

    @property
    def parameters(self) -> int:
        """Parameter count of the weights file, which stores tied tensors once."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_run(run: Path, checkpoint: str) -> RunFiles:
    """Read the files for the card.

    Raises UserError for missing or damaged files, and for a checkpoint that does not match its
    ``complete.json``.
    """
    folder = checkpoint_folder(run, checkpoint)
    check_checkpoint(folder)
    weights = weights_in(folder)
    metrics = read_metrics(run / "metrics.jsonl")
    return RunFiles(
        run_id=run.resolve().name,
        checkpoint=checkpoint,
        folder=folder.resolve(),
        recipe=_read(run / "recipe.yaml", yaml.safe_load),
        environment=_read(run / "environment.json", json.loads),
        metrics=metrics.measurements,
        events=metrics.events,
        evaluations=of_weights(read_evaluations(run), checkpoint, weights.digest, weights.step),
        samples=read_samples(run, weights.digest),
        config=_read(folder / "config.json", json.loads),
        tokenizer=_read(folder / "tokenizer.json", json.loads),
        shapes=_tensor_shapes(folder / "model.safetensors"),
        checkpoint_step=weights.step,
        has_curves=(run / "loss.svg").exists(),
    )


def checkpoint_folder(run: Path, checkpoint: str) -> Path:
    """The folder of a checkpoint. Raises UserError, listing existing ones, if it is missing."""
    folder = run / "checkpoints" / checkpoint
    if not re.fullmatch(r"[\w.-]+", checkpoint) or not (folder / "config.json").is_file():
        existing = sorted(path.parent.name for path in run.glob("checkpoints/*/config.json"))
        raise UserError(
            f"run {printable(run.resolve().name)} has no checkpoint {quoted(checkpoint)}: "
            f"it has {printable(', '.join(existing)) or 'none'}"
        )
    return folder


def _read(path: Path, parse: Callable[[str], Any], kind: type = dict) -> Any:
    """The parsed file, which must hold a ``kind``."""
    if not path.is_file():  # reading a pipe would block
        raise UserError(f"{path} is missing: the card needs a complete run folder")
    with reading(path, "the card needs it as it was written, so train a new run"):
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise TypeError(f"it holds {quoted(content)}")
    return content


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Tensor shapes from the header of a safetensors file: 8 bytes of length, then JSON."""
    if not path.exists():
        raise UserError(f"{path} is missing: the checkpoint has no weights")
    with reading(path, "choose another checkpoint"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
