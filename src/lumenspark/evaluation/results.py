"""Evaluation results, and ``evaluation.json`` in a run folder."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from lumenspark.errors import UserError, printable, quoted, reading
from lumenspark.files import changing, write_json


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a split, with all settings."""

    protocol: str
    data: str
    split: str
    layout: str
    data_digest: str
    hub_id: str | None
    revision: str | None
    model_revision: str | None  # commit of a hub model
    loss: float  # nats per target
    perplexity: float  # exp(loss)
    # None for the card's protocol: targets in overlaps count twice, so there is no total to divide.
    word_perplexity: float | None  # exp(total nats / words); None on overflow
    bits_per_byte: float | None  # total nats / ln 2 / bytes
    targets: int  # predictions scored
    # Of the decoded text (lm_eval: of the raw text); None if decoding loses text.
    bytes: int | None  # UTF-8
    words: int | None  # text.split()
    raw_bytes: int  # UTF-8 bytes of the original text
    documents: int | None  # None for a single stream
    windows: int
    context: int  # tokens
    stride: int  # tokens from the start of one window to the start of the next
    dtype: str
    seconds: float
    notes: list[str]  # caveats
    config: str | None = None  # of the dataset
    text_field: str = "text"  # of its rows
    entropy: float | None = None  # of the text, in bits per byte, where it is known

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def store(
    run_folder: Path,
    evaluation: Evaluation,
    *,
    checkpoint: str,
    step: int | None,
    command: str,
    weights: str | None = None,
) -> None:
    """Add ``evaluation`` to ``evaluation.json`` in a run folder.

    ``weights`` is the digest of the scored weights (:mod:`.weights`). An older entry of the same
    weights, checkpoint, data (with configuration, field, revision and layout), split, protocol,
    context and stride is replaced. The file is locked. Raises UserError for a damaged file, and for
    a folder that was deleted during scoring.
    """
    if not run_folder.is_dir():
        raise UserError(f"the results are not stored: {run_folder} was deleted during scoring")
    path = run_folder / "evaluation.json"
    entry = evaluation.to_dict() | {
        "checkpoint": checkpoint,
        "step": step,
        "weights": weights,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }
    with changing(path):
        others = [old for old in read_evaluations(run_folder) if not _replaces(entry, old)]
        write_json(path, {"evaluations": [*others, entry]})


def read_evaluations(run_folder: Path) -> list[dict[str, Any]]:
    """The entries of ``evaluation.json``, oldest first; none without the file.

    Raises UserError for a damaged file.
    """
    path = run_folder / "evaluation.json"
    if not os.path.lexists(path):
        return []
    with reading(path, "it is damaged, so move it away and evaluate again"):
        if not path.is_file():  # reading a pipe would block
            raise ValueError("it is not a file")
        entries = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
        for entry in list(entries):
            _check_entry(entry)
    return list(entries)


def of_weights(
    entries: list[dict[str, Any]], checkpoint: str, weights: str | None, step: int | None
) -> list[dict[str, Any]]:
    """The entries for these weights, the latest for each setting.

    Entries without a digest (first versions of this package) are matched by checkpoint and step.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        if entry.get("weights") is not None:
            fits = entry["weights"] == weights
        else:
            fits = (entry["checkpoint"], entry.get("step")) == (checkpoint, step)
        if fits:
            settings = _settings(entry)
            found.pop(settings, None)  # the latest comes last
            found[settings] = entry
    return list(found.values())


def describe(evaluation: Evaluation) -> str:
    """The results as plain lines."""
    rows = [
        ("loss", f"{evaluation.loss:.4f} nats per token"),
        ("token perplexity", f"{evaluation.perplexity:.4f}"),
    ]
    if evaluation.word_perplexity is not None:
        rows.append(("word perplexity", f"{evaluation.word_perplexity:.4f}"))
    if evaluation.bits_per_byte is not None:
        rows.append(("bits per byte", f"{evaluation.bits_per_byte:.4f}"))
        if evaluation.entropy is not None:
            rows.append(
                ("entropy", f"{evaluation.entropy:.4f} bits per byte, which no model beats")
            )
    rows += [
        ("targets", f"{evaluation.targets:,} in {evaluation.windows:,} windows"),
        ("text", _size_in_words(evaluation)),
        ("context", f"{evaluation.context} tokens, stride {evaluation.stride}"),
        ("time", f"{evaluation.seconds:.1f} s in {evaluation.dtype}"),
        *(("note", note) for note in evaluation.notes),
    ]
    data = printable(evaluation.data)
    title = f"{data}, {evaluation.split} split, protocol {evaluation.protocol}"
    return "\n".join([title, *(f"  {name:<18}{value}" for name, value in rows)])


def in_one_line(evaluation: Evaluation) -> str:
    """The main metrics as a line."""
    figures = f"loss {evaluation.loss:.4f}, perplexity {evaluation.perplexity:.2f}"
    if evaluation.bits_per_byte is not None:
        figures += f", {evaluation.bits_per_byte:.4f} bits per byte"
        if evaluation.entropy is not None:
            figures += f" (entropy of the text: {evaluation.entropy:.4f})"
    data = printable(evaluation.data)
    return f"{data}, {evaluation.split} split, protocol {evaluation.protocol}: {figures}"


def _size_in_words(evaluation: Evaluation) -> str:
    if evaluation.bytes is None:
        return f"{evaluation.raw_bytes:,} bytes"
    size = f"{evaluation.bytes:,} bytes, {evaluation.words:,} words"
    if evaluation.bytes == evaluation.raw_bytes:
        return size
    return f"{size}, as decoded by the tokenizer (raw: {evaluation.raw_bytes:,} bytes)"


def _settings(entry: dict[str, Any]) -> tuple[Any, ...]:
    names = ("data", "split", "protocol", "context", "stride")
    # Entries of earlier versions lack these.
    corpus_settings = [entry.get(name) for name in ("config", "revision", "layout")]
    return (*(entry[name] for name in names), entry.get("text_field", "text"), *corpus_settings)


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether both have the same weights, checkpoint and settings."""
    if (old["checkpoint"], _settings(old)) != (new["checkpoint"], _settings(new)):
        return False
    if old.get("weights") is None and new["weights"] is not None:
        return bool(old.get("step") == new["step"])
    return bool(old.get("weights") == new["weights"])


def _check_entry(entry: Any) -> None:
    """Raise for an entry with types other than :func:`store` writes."""
    for name in ("data", "split", "protocol", "checkpoint", "data_digest"):
        _expect(entry, name, str)
    for name in ("context", "stride", "targets"):
        _expect(entry, name, int)
    for name in ("loss", "perplexity"):
        _expect(entry, name, (int, float))
    for name in ("word_perplexity", "bits_per_byte"):
        _expect(entry, name, (int, float, NoneType))
    for name in ("weights", "hub_id", "revision", "config", "text_field", "layout"):
        if name in entry:
            _expect(entry, name, (str, NoneType))
    datetime.fromisoformat(entry["finished_at"])


def _expect(entry: Any, name: str, kind: type | tuple[type, ...]) -> None:
    if not isinstance(entry[name], kind):
        raise TypeError(f"{name} is {quoted(entry[name])}")
