"""Message and exit code of a training that was stopped by a signal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exit_when_stopped() -> Iterator[None]:
    """Exit with code 128 + signal number, after printing how to resume."""
    from lumenspark.training.trainer import Stopped

    try:
        yield
    except Stopped as stopped:
        print(f"stopped and saved: resume with `lumenspark resume {stopped.run_id}`")
        sys.exit(128 + stopped.signal)
