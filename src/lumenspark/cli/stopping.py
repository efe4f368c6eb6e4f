"""What the command line says and returns when a run was stopped on request."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def saved_when_stopped() -> Iterator[None]:
    """Exit code 128 + the signal's number, as shells expect, after a word on how to go on."""
    from lumenspark.training.trainer import Stopped

    try:
        yield
    except Stopped as stopped:
        print(f"stopped and saved: go on with `lumenspark resume {stopped.run_id}`")
        sys.exit(128 + stopped.signal)
