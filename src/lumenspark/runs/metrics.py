"""metrics.jsonl, the metrics of a run.

A line is a measurement (numbers, at a step and after so many tokens) or an event
(what happened to the run, such as going back). The file is a helper: a line that cannot be read is
passed over, and no training ends because of it.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumenspark.files import set_aside

LARGEST = 2**63  # of a step, a number of tokens, a whole number of any kind


@dataclass(frozen=True)
class Metrics:
    """What a metrics.jsonl holds, in the order in which it was written.

    ``problem``: one sentence where the file, or some of its lines, cannot be read.
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
    """Every line that can be read. A last line that a kill cut short is left out without a word."""
    if not os.path.lexists(path):
        return Metrics([])
    if not path.is_file():
        return Metrics([], f"{path} is no file")
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
    """A line as an object, None where it is neither a measurement nor an event."""
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
    """The file metrics.jsonl, one object a line. Raises OSError, which names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if os.path.lexists(path) and not path.is_file():
            set_aside(path)
        self._file = path.open("ab", buffering=0)

    def write(self, metrics: dict[str, Any]) -> None:
        """Add a line: all of it or, where the disk refuses, nothing."""
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
        """Bytes so far, which are on the disk when this returns."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        return self._size()

    def cut(self, size: int, step: int) -> bool:
        """Keep the first ``size`` bytes: a run goes back to the checkpoint of ``step``.

        Returns False where those are not the lines that were there then: the file is shorter, or
        somebody has changed it. Then whole lines stay, up to that step.
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
    """Where the last line begins, if it is a measurement after ``step``; else None."""
    start = content.rfind(b"\n", 0, max(0, len(content) - 1)) + 1
    line = _parse(content[start:-1])
    return start if line and "event" not in line and line["step"] > step else None
