"""Running the command line in tests, and settings that make a training take a second."""

import subprocess
import sys
from typing import Any

SMALL = {
    "train.steps": 12,
    "train.batch_size": 4,
    "train.log_every": 2,
    "train.validate_every": 4,
    "train.validation_windows": 16,
    "train.save_every": 3,
}
"""Overrides that make the recipe lumiere-tiny train in a second."""


def lumenspark(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "lumenspark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def overrides(**more: object) -> list[str]:
    """:data:`SMALL` and ``more`` (``train__keep_checkpoints=2``) as command-line arguments."""
    given = SMALL | {name.replace("__", "."): value for name, value in more.items()}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]
