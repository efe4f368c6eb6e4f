"""Console output of training: a progress bar on a terminal, plain lines otherwise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_LINE_EVERY_SECONDS = 10.0


def in_words(seconds: float) -> str:
    """A time as "45 s", "2 min 10 s" or "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Output:
    """A text stream that never raises; default: the current ``sys.stdout``.

    Unencodable characters are replaced. Output to a closed, broken or missing stream is dropped.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    @property
    def stream(self) -> Any:
        stream = sys.stdout if self._stream is None else self._stream
        return getattr(stream, "rich_proxied_file", stream)  # rich replaces it while a bar is shown

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # broken, closed, None
            self._write(text)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(text.encode(encoding, "replace").decode(encoding))

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self.stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(self.stream.isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Reporter:
    """Prints messages and the progress of training: step, loss, throughput and time left.

    A context manager, which removes the bar on exit.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, file=cast(IO[str], _Output()))
        if not isinstance(self.console.file, _Output):
            self.console.file = cast(IO[str], _Output(self.console.file))
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def say(self, message: str) -> None:
        self.console.print(message, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show that ``what`` is going on: a spinner on a terminal, else a line."""
        if not self.console.is_terminal:
            self.say(f"{what} …")
            yield
            return
        with self.console.status(Text(f"{what} …")):
            yield

    def start(self, step: int, steps: int) -> None:
        """Start of a training: shows a bar if the output is a terminal."""
        self._last_line = 0.0
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=self.console)
        self._task = self._bar.add_task("", total=steps, completed=step)
        self._bar.start()

    def step(self, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """``metrics``: loss (nats), tokens_per_second, seconds since the start."""
        throughput = metrics["tokens_per_second"]
        text = f"loss {metrics['loss']:.3f}  {throughput:,.0f} tokens/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=text)
            return
        if step == steps or metrics["seconds"] - self._last_line >= PLAIN_LINE_EVERY_SECONDS:
            self._last_line = metrics["seconds"]
            left = (steps - step) * metrics["seconds"] / max(1, step)
            self.say(f"step {step}/{steps}  {text}  {left:,.0f} s left")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
