"""Ctrl-C ends every command with a sentence and exit code 130, at any time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumenspark.cli import run

SENTENCE = "lumenspark: stopped by Ctrl-C\n"
INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from lumenspark.cli import main
main()
"""


def heeding_interrupts() -> None:
    """A shell starts jobs in the background with interrupts ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("signal", "--help"),
        ("lumenspark.errors", "--help"),
        ("tyro", "train --help"),
        ("lumenspark.recipe", "runs"),
        ("pydantic_core", "recipes"),
        ("rich.table", "recipes"),
        ("lumenspark.pipeline", "train lumiere-tiny"),
        ("numpy", "generate {trained} The"),
        ("numpy._core.multiarray", "generate {trained} The"),
        ("torch", "compress {trained} {folder}/small"),
        ("torch.functional", "evaluate {trained}"),
        ("transformers.modeling_utils", "inspect {trained} Words -o {folder}/page.html"),
        ("sympy", "generate {trained} The"),
    ],
)
def test_during_an_import(name: str, command: str, trained: Path, tmp_path: Path) -> None:
    program = INTERRUPTED_IMPORT.format(name=name)
    if name == "signal":  # it was loaded by the program itself
        program = program.replace(
            "from lumenspark.cli", "del sys.modules['signal']\nfrom lumenspark.cli"
        )
    words = command.format(trained=trained, folder=tmp_path).split()
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=heeding_interrupts,
    )
    assert (done.returncode, done.stderr) == (130, SENTENCE)
    assert not any(tmp_path.iterdir())


SCRIPT = shutil.which("lumenspark", path=str(Path(sys.executable).parent)) or "lumenspark"


@pytest.mark.parametrize("program", [[sys.executable, "-m", "lumenspark"], [SCRIPT]], ids=str)
@pytest.mark.parametrize("command", ["runs", "recipes", "generate {trained} The --n 50", "train"])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0, 2.0])
def test_in_the_first_seconds(
    program: list[str], command: str, seconds: float, trained: Path, own_runs: Path
) -> None:
    process = subprocess.Popen(
        [*program, *command.format(trained=trained).split()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_interrupts,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    # After an interrupt inside exec(), Python ends by the signal itself: 130 in a shell, too.
    code = 128 + signal.SIGINT if process.returncode == -signal.SIGINT else process.returncode
    # A short command may have ended before.
    assert (code, errors) in [(130, SENTENCE), (0, "")]


def test_an_ignored_interrupt_stays_ignored(trained: Path) -> None:
    """As under nohup."""
    program = INTERRUPTED_IMPORT.format(name="rich.table")
    done = subprocess.run(
        [sys.executable, "-c", program, "runs"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0
    assert trained.name in done.stdout


def test_in_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lumenspark.runs.run.list_runs", interrupted)
    assert run(["runs"]) == 130
    assert capsys.readouterr().err == SENTENCE
