"""Completion scripts, in the shells themselves where this machine has them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lumenspark.cli import COMMANDS
from lumenspark.cli.completion import options_of
from lumenspark.recipe import recipe_names

COMPLETE = """
source "$1"
COMP_WORDS=(lumenspark {words})
COMP_CWORD={position}
_lumenspark
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def bash(call: Callable[..., str], tmp_path: Path) -> Callable[..., list[str]]:
    """What bash offers for the last word; ``''`` for none yet."""
    script = tmp_path / "completion.bash"
    script.write_text(call("completion", "bash"))

    def complete(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        program = COMPLETE.format(words=quoted, position=len(words))
        done = subprocess.run(
            ["bash", "--norc", "-c", program, "bash", str(script)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_bash_completes_commands(bash: Callable[..., list[str]]) -> None:
    assert bash("") == list(COMMANDS)
    assert bash("comp") == ["compress", "completion"]
    assert bash("completion", "") == ["bash", "zsh", "fish"]


def test_bash_completes_options(bash: Callable[..., list[str]]) -> None:
    assert bash("train", "lumiere-1m", "--train.st") == ["--train.steps"]
    assert bash("generate", "latest", "x", "--temp") == ["--temperature"]
    assert {"--k", "--window"} <= set(bash("convert", "OLD", "NEW", "--"))
    assert {"--size", "--budget", "--dry-run"} <= set(bash("train", "--"))
    assert {"--vary", "--trials", "--size"} <= set(bash("sweep", "--"))


def test_bash_completes_presets_and_runs(trained: Path, bash: Callable[..., list[str]]) -> None:
    assert bash("train", "") == recipe_names()
    assert bash("train", "lumiere-t") == ["lumiere-tiny"]
    assert {trained.name, "latest"} <= set(bash("generate", ""))
    assert bash("resume", trained.name[:6]) == [trained.name]
    assert bash("generate", "latest", "") == []  # a prompt: bash then offers files


def test_bash_completes_without_runs(
    bash: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "none"))
    assert bash("card", "") == ["latest"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_options(command: str) -> None:
    assert "--help" in options_of(command)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_whole(shell: str, call: Callable[..., str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(call("completion", shell))
    text = script.read_text()
    for command in COMMANDS:
        assert command in text
    assert all(word not in text for word in ("RUNS_FUNCTION", "CASES", "COMMANDS"))
    assert "train.steps" in text
    if shutil.which(shell):
        check = [shell, "--no-execute" if shell == "fish" else "-n", str(script)]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
