"""Terminals, disks and folders that are not as expected: a sentence, or what was asked for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lumenspark import cli


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``command`` in a shell in ``folder``, in which ``lumenspark`` is this package."""
    program = f'lumenspark() {{ "{sys.executable}" -m lumenspark "$@"; }}\n'
    environment = {**os.environ, "LUMENSPARK_RUNS": str(folder / "runs"), **variables}
    return subprocess.run(
        ["bash", "-c", program + command],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def is_a_sentence(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    assert len(lines) == 1
    assert lines[0].startswith("lumenspark: ")
    assert all(word in lines[0] for word in words), lines[0]
    return done.returncode == 2


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        lines = (f"line {number} of {split}, on naïve ☃\n" for number in range(300))
        (tmp_path / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("redirection", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&-", 0)]
)
def test_closed_streams(tmp_path: Path, redirection: str, code: int) -> None:
    done = shell(f"lumenspark runs {redirection}", tmp_path)
    assert (done.returncode, done.stderr) == (code, "")


def test_an_output_that_is_full(tmp_path: Path) -> None:
    assert is_a_sentence(shell("lumenspark runs > /dev/full", tmp_path), "No space left")


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    done = shell("set -o pipefail; lumenspark runs | true", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = shell("cd gone && rmdir ../gone && lumenspark train lumiere-tiny", tmp_path)
    assert is_a_sentence(done, "the current folder no longer exists")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_without_these_letters(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ni☃.yaml").write_text("{", encoding="utf-8")
    done = shell("lumenspark train ni☃.yaml", tmp_path, PYTHONIOENCODING=encoding)
    assert is_a_sentence(done, "is not valid YAML")


@pytest.mark.parametrize("variables", [{"COLUMNS": "abc"}, {"COLUMNS": "1"}, {"TERM": "none"}])
def test_terminals_of_odd_shapes(tmp_path: Path, variables: dict[str, str]) -> None:
    done = shell("lumenspark runs", tmp_path, **variables)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("place", ["train.txt", "train.txt/deeper", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written(text: Path, place: str) -> None:
    done = shell("lumenspark prepare lumiere-tiny --data .", text, LUMENSPARK_CACHE=place)
    assert is_a_sentence(done, place, "LUMENSPARK_CACHE")


def test_no_home(tmp_path: Path) -> None:
    done = shell("unset HOME; lumenspark runs", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_no_boundary_caught_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake of this package says so, with exit code 1, and --debug shows where."""

    def broken(arguments: list[str]) -> int:
        raise LookupError("first line\nsecond line")

    monkeypatch.setattr("lumenspark.cli.runs.main", broken)
    assert cli.run(["runs"]) == 1
    said = capsys.readouterr().err
    assert said == (
        "lumenspark: internal error (--debug shows the traceback): LookupError: first line\n"
    )
    with pytest.raises(LookupError):
        cli.run(["runs"], debug=True)


# Not "--", which train and prepare take for "no options", and do their work.
WORDS = ["", " ", "\n", "-", "---", "-x", "--nope", "--=", "\ud800", "é" * 5000, "@f"]


@pytest.mark.parametrize("verb", ["", "help", "--version", "train ", "Train", "\0", *cli.COMMANDS])
def test_odd_words(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for word in WORDS:
        refused(verb, word)
