"""A command imports what it uses: large packages are absent from its process otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

from lumenspark.cli import COMMANDS

LARGE = {"torch", "transformers", "datasets", "pyarrow", "matplotlib", "pydantic"}
PROGRAM = """
import sys
from lumenspark.cli import run
try:
    code = run(sys.argv[1:])
except SystemExit as stopped:  # after a command's help
    code = stopped.code
print("imported:", *(name for name in {names!r} if name in sys.modules))
sys.exit(code)
"""


def imported(*arguments: object) -> set[str]:
    """The names of :data:`LARGE` that a command line imports."""
    command = [sys.executable, "-c", PROGRAM.format(names=sorted(LARGE)), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_of_the_program_imports_nothing_large(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_torch(command: str) -> None:
    assert imported(command, "--help") <= {"pydantic"}


def test_lists_import_no_torch(trained: Path) -> None:
    assert imported("runs") <= {"pydantic"}
    assert imported("recipes") <= {"pydantic"}


def test_the_card_of_a_run_imports_no_torch(trained: Path) -> None:
    assert imported("card", trained, "--check") <= {"pydantic"}


def test_generate_and_inspect_import_what_runs_a_model(trained: Path, tmp_path: Path) -> None:
    running = {"torch", "transformers"}
    assert imported("generate", trained, "The", "--max-new-tokens", "1") <= running
    page = ("-o", tmp_path / "page.html")
    assert imported("inspect", trained, "A few words", *page) <= running | {"pydantic"}
