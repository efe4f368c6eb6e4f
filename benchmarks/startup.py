"""Start-up: the seconds until a command has printed, and the large packages it imports.

    python benchmarks/startup.py [--before FOLDER]

A model of a few steps is trained into a temporary folder; then each command runs in a fresh
process, `--rounds` times, and the table has the median. With `--before`, the package in another
checkout runs the same commands, in turn with this one. Packages are those of `python -X importtime`
that take long to import; torch's own import of numpy and the like is not counted again.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

COMMANDS = (
    "--help",
    "runs",
    "recipes",
    "generate latest The --max-new-tokens 1",
    "inspect latest Words -o PAGE",
    "train --help",
    "evaluate --help",
)
PACKAGES = ("torch", "transformers", "datasets", "pyarrow", "matplotlib", "pydantic", "tyro")
TRAINING = "train lumiere-tiny --train.steps 4 --train.validation-windows 8 --train.compile off"


@dataclass
class Options:
    """Measure the start-up of commands on this machine."""

    before: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Another checkout of this repository, to compare with."""
    rounds: int = 5


def environment(source: Path | None, folder: Path) -> dict[str, str]:
    own = {"LUMENSPARK_RUNS": str(folder / "runs"), "LUMENSPARK_CACHE": str(folder / "cache")}
    path = {} if source is None else {"PYTHONPATH": str(source.resolve() / "src")}
    return dict(os.environ) | own | path


def run(command: str, folder: Path, source: Path | None = None, *python: str) -> str:
    """Run a command line of lumenspark; what it wrote to stderr."""
    words = [str(folder / "page.html") if word == "PAGE" else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, *python, "-m", "lumenspark", *words],
        env=environment(source, folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"lumenspark {command} failed: {done.stderr}")
    return done.stderr


def seconds(command: str, folder: Path, source: Path | None) -> float:
    began = time.perf_counter()
    run(command, folder, source)
    return time.perf_counter() - began


def imported(command: str, folder: Path, source: Path | None) -> str:
    """The names in :data:`PACKAGES` that a command imports."""
    lines = run(command, folder, source, "-X", "importtime").splitlines()
    names = {line.rpartition("|")[2].strip() for line in lines}
    return " ".join(name for name in PACKAGES if name in names)


def main(options: Options) -> None:
    sources = [None] if options.before is None else [options.before, None]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(TRAINING, folder)
        for command in COMMANDS:
            times: dict[Path | None, list[float]] = {source: [] for source in sources}
            for _ in range(options.rounds + 1):
                for source in sources:
                    times[source].append(seconds(command, folder, source))
            for source in sources:
                median = statistics.median(times[source][1:])  # the first one fills disk caches
                which = "" if options.before is None else "before" if source else "now"
                names = imported(command, folder, source)
                print(f"{command:40} {which:7} {median:6.2f} s  {names}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
