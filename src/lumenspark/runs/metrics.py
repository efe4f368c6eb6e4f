"""metrics.jsonl: measurements and events of a run.

A line is a measurement (numbers, with step and tokens) or an event (such as a rollback).
Unreadable lines are skipped and never stop a training.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumenspark.files import set_aside

LARGEST = 2**63  # exclusive bound of steps, tokens and other integers


@dataclass(frozen=True)
class Metrics:
    """Lines of metrics.jsonl in file order.

    ``problem``: a message if the file, or some of its lines, cannot be read.
    """

    lines: list[dict[str, Any]]
    problem: str | None = None

    @property
    def measurements(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "event" not in line]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "event" in line]


def read_metrics(path: Path) -> Metrics:
    """All readable lines. A last line truncated by a kill is dropped silently."""
    if not os.path.lexists(path):
        return Metrics([])
    if not path.is_file():
        return Metrics([], f"{path} is not a file")
    try:
        content = path.read_bytes()
    except OSError as error:
        return Metrics([], f"{path} cannot be read ({error.strerror})")
    *whole, _ = content.split(b"\n")
    parsed = [_parse(line) for line in whole]
    bad = [number for number, line in enumerate(parsed, 1) if line is None]
    some = f"{len(bad)} lines of {path} cannot be read, the first is line" if bad else ""
    return Metrics([line for line in parsed if line], f"{some} {bad[0]}" if bad else None)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if it is neither a measurement nor an event."""
    try:
        value = json.loads(line.strip(b"\0 \r").decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not _is_count(value.get("step")):
        return None
    if isinstance(value.get("event"), str):
        return value
    good = _is_count(value.get("tokens")) and all(map(_is_number, value.values()))
    return value if good else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < LARGEST)


class MetricsLog:
    """Writer of metrics.jsonl, one object per line. Raises OSError with the file name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if os.path.lexists(path) and not path.is_file():
            set_aside(path)
        self._file = path.open("ab", buffering=0)

    def write(self, metrics: dict[str, Any]) -> None:
        """Append a line completely; on a write error, nothing of it."""
        line = (json.dumps(metrics, ensure_ascii=False) + "\n").encode(errors="replace")
        before = self._size()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(before)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def size(self) -> int:
        """Bytes so far, flushed to disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        return self._size()

    def cut(self, size: int, step: int) -> bool:
        """Truncate to the first ``size`` bytes, when a run resumes from the checkpoint of ``step``.

        Returns False if the file is shorter or was changed; it is truncated after the last line up
        to that step then.
        """
        content = self.path.read_bytes()[:size]
        kept = content[: content.rfind(b"\n") + 1]
        while (start := _last_line_after(kept, step)) is not None:
            kept = kept[:start]
        self._file.truncate(len(kept))
        return len(kept) == size

    def close(self) -> None:
        self._file.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size


def _last_line_after(content: bytes, step: int) -> int | None:
    """Start of the last line, if it is a measurement or sample after ``step``; else None."""
    start = content.rfind(b"\n", 0, max(0, len(content) - 1)) + 1
    line = _parse(content[start:-1])
    undone = line and line.get("event") in (None, "sample") and line["step"] > step
    return start if undone else None
