"""`lumenspark inspect` as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lumenspark

from lumenspark.cli import run


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


def test_a_text_becomes_one_page(trained: Path, page: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["inspect", str(trained), "a list of values", "-o", str(page)]) == 0
    content = page.read_text(encoding="utf-8")
    assert content.lower().startswith("<!doctype html>")
    assert f"run {trained.name} (lumiere-tiny), checkpoint best" in content
    assert page.stat().st_size < 2_000_000
    said = capsys.readouterr().out
    assert said.startswith(f"{page}: ")
    assert "kB" in said


def test_open_shows_the_page_in_a_browser(trained: Path, page: Path, tmp_path: Path) -> None:
    browser, shown = tmp_path / "browser", tmp_path / "shown"
    browser.write_text(f'#!/bin/sh\necho "$1" > {shown}\n')
    browser.chmod(0o755)
    arguments = ("inspect", str(trained), "a list", "-o", str(page), "--open")
    done = lumenspark(*arguments, env=os.environ | {"BROWSER": str(browser)})
    assert (done.returncode, done.stderr) == (0, "")
    assert shown.read_text().strip() == page.as_uri()


def test_without_a_display_the_page_is_written_all_the_same(trained: Path, page: Path) -> None:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    without = {name: value for name, value in os.environ.items() if name not in hidden}
    done = lumenspark("inspect", str(trained), "a list", "-o", str(page), "--open", env=without)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"there is no browser to open it here: open {page}" in done.stdout
    assert page.is_file()


def test_the_text_may_come_from_standard_input(trained: Path, page: Path) -> None:
    command = [sys.executable, "-m", "lumenspark", "inspect", str(trained), "-o", str(page)]
    done = subprocess.run(command, input="a list", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert page.is_file()


def test_all_heads_and_what_training_recorded(copied: Path, page: Path) -> None:
    with (copied / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write(json.dumps({"step": 12, "tokens": 1, "induction/0.0": 0.125}) + "\n")
    assert run(["inspect", copied.name, "--heads", "-o", str(page)]) == 0
    assert copied.name in page.read_text(encoding="utf-8")


def test_two_models_on_one_text(trained: Path, page: Path) -> None:
    folder = trained / "checkpoints" / "best"
    arguments = ["inspect", str(trained), "a list", "--compare", str(folder), "-o", str(page)]
    assert run(arguments) == 0
    assert "checkpoint best and best" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--heads"], "--heads takes no text"),
        (["text", "--whole", "2"], "--whole '2': write layers and heads such as 2.1,3.0"),
        (["text", "--whole", "0.7"], "there is no head 0.7: the model has 2 layers of 2 heads"),
        (["  "], "the text is empty"),
        (["word " * 200], "tokens exceed the context of"),
        (["text", "--compare", "nowhere"], "is no folder and no run"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_leaves_the_file_alone(
    trained: Path,
    page: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    page.write_text("mine")
    assert run(["inspect", str(trained), *arguments, "-o", str(page)]) == 2
    assert message in capsys.readouterr().err
    assert page.read_text() == "mine"


def test_the_page_needs_a_place(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for place in (tmp_path, tmp_path / "no" / "page.html"):
        assert run(["inspect", str(trained), "text", "-o", str(place)]) == 2
        assert "name a file in a folder that exists" in capsys.readouterr().err


def test_without_a_text_on_a_terminal_it_says_so(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert run(["inspect", str(trained)]) == 2
    assert "there is no text" in capsys.readouterr().err


def test_text_that_is_not_utf8(trained: Path, page: Path) -> None:
    command = [sys.executable, "-m", "lumenspark", "inspect", str(trained), "-o", str(page)]
    done = subprocess.run(command, input=b"caf\xe9", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"the text is not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr
