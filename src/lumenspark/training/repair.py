"""Repair of a run's side files, and conversion of disk errors to UserError."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lumenspark.errors import UserError, first_line
from lumenspark.evaluation.results import read_evaluations
from lumenspark.files import set_aside
from lumenspark.runs.environment import mend_environment
from lumenspark.runs.run import Run

MADE_AT_THE_END = ("evaluation.json", "samples.json", "loss.svg", "README.md", "inspect.html")


def repair_side_files(run: Run, environment: Mapping[str, Any]) -> Iterator[str]:
    """Set damaged files of a run aside, so that they cannot stop its training. Yields the problems.

    ``environment``: the content of environment.json if the run started now.
    """
    problem = mend_environment(run, environment)
    if problem is not None:
        yield problem
    if (problem := run.metrics_problem()) is not None:
        yield f"{problem}: skipped"
    for file in (run.path / made for made in MADE_AT_THE_END):
        if os.path.lexists(file) and not file.is_file():
            yield f"{file} is not a file: kept as {set_aside(file).name}"
    try:
        read_evaluations(run.path)
    except UserError as error:
        yield f"{error} (kept as {set_aside(run.path / 'evaluation.json').name})"


@contextmanager
def explaining_disk_errors(command: str) -> Iterator[None]:
    """Convert an OSError of the block (disk full, read-only) to a UserError.

    The message names ``command``, which resumes the run.
    """
    try:
        yield
    except OSError as error:
        name, reason = error.filename or "the disk", error.strerror or first_line(error)
        raise UserError(
            f"{name}: {reason}; all saved files are intact: free some space there, or make it "
            f"writable, and continue with `{command}`"
        ) from error
