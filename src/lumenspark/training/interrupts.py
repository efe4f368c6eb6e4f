"""Ctrl-C and SIGTERM: a run saves and stops after the step in progress."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Stopped(Exception):  # noqa: N818 (not an error: the user stopped the run)
    """The run was interrupted (Ctrl-C, SIGTERM) and has saved. ``signal``: the signal's number."""

    def __init__(self, run_id: str, signal_number: int) -> None:
        super().__init__(run_id, signal_number)
        self.run_id = run_id
        self.signal = signal_number


@dataclass
class StopRequest:
    """The signal that stops the run; None until it arrives."""

    signal: int | None = None


@contextmanager
def noting_interrupts(request: StopRequest) -> Iterator[None]:
    """Record the first SIGINT or SIGTERM in ``request``; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        request.signal = number
        restore()

    for number in numbers:
        signal.signal(number, note)
    try:
        yield
    finally:
        restore()
