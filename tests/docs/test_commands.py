"""The commands in README, docs and benchmarks are parsed by the real parsers, and not run."""

import argparse
import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
from documentation import (
    BENCHMARKS,
    PAGES,
    ROOT,
    commands_of_docstring,
    commands_of_page,
    words,
)

from lumenspark import cli

PLACEHOLDERS = {"TRACK": "fast", "…": ""}
"""Words that a reader replaces where only certain words can stand."""


class Parsed(BaseException):
    """Raised in place of running a command whose options have been parsed."""


def found() -> list[tuple[str, str]]:
    """Page and command line, each once."""
    pages = [(page, commands_of_page) for page in PAGES]
    programs = [(program, commands_of_docstring) for program in BENCHMARKS]
    commands = {
        (str(source.relative_to(ROOT)), command)
        for source, commands_of in pages + programs
        for command in commands_of(source)
    }
    return sorted(commands)


OURS = [(page, command) for page, command in found() if command.startswith("lumenspark")]
BENCHMARK_RUNS = [(page, command) for page, command in found() if command.startswith("python")]


def parsed_only(parse: Callable[..., Any]) -> Callable[..., Any]:
    """``parse``, and then nothing."""

    def parse_and_stop(*arguments: Any, **options: Any) -> Any:
        if callable(arguments[0]) and not isinstance(arguments[0], type):
            arguments = (_nothing, *arguments[1:])  # tyro would call it
        parse(*arguments, **options)
        raise Parsed

    return parse_and_stop


def _nothing() -> None:
    """A command without options."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of the command line stops when its options are parsed."""
    for path in (ROOT / "src/lumenspark/cli").glob("*.py"):
        if path.stem.startswith("__"):
            continue
        module = importlib.import_module(f"lumenspark.cli.{path.stem}")
        for name in ("parse", "parse_recipe"):
            if path.stem != "parsing" and hasattr(module, name):
                monkeypatch.setattr(module, name, parsed_only(getattr(module, name)))


def parse_command(command: str) -> None:
    """Raises what is wrong with a command line of ours."""
    _, *arguments = (PLACEHOLDERS.get(word, word) for word in words(command))
    if len(arguments) <= 1:  # a text that names a command
        arguments = [*arguments, "--help"]
    try:
        cli.run([word for word in arguments if word], debug=True)
    except Parsed:
        return
    except SystemExit as stopped:
        if stopped.code:
            raise AssertionError(f"{command}: wrong options") from stopped


@pytest.mark.usefixtures("only_parse")
@pytest.mark.parametrize(("page", "command"), OURS)
def test_a_command_of_ours_parses(page: str, command: str) -> None:
    parse_command(command)


def test_every_command_is_on_a_page() -> None:
    """And the search for commands finds what is there."""
    named = {words(command)[1] for _, command in OURS if len(words(command)) > 1}
    commands = {
        path.stem
        for path in (ROOT / "src/lumenspark/cli").glob("*.py")
        if "\ndef main(" in path.read_text(encoding="utf-8") and path.stem != "__init__"
    }
    assert commands <= named


@pytest.mark.usefixtures("only_parse")
@pytest.mark.parametrize(
    "command",
    [
        "lumenspark trian lumiere-1m",
        "lumenspark train lumiere-2m",
        "lumenspark train lumiere-1m --optim.muon-rate 0.1",
        "lumenspark generate latest Once --temp 1",
        "lumenspark record slow",
    ],
)
def test_a_wrong_command_does_not_parse(command: str) -> None:
    with pytest.raises((Exception, SystemExit, AssertionError)):
        parse_command(command)


@pytest.mark.parametrize(("page", "command"), BENCHMARK_RUNS)
def test_a_command_of_a_benchmark_parses(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, program, *arguments = words(command)
    assert (ROOT / program).is_file()
    arguments = [word.strip("[]") for word in arguments if word not in {"...", "…"}]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(tyro, "cli", parsed_only(tyro.cli))
    parse_args = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", method_parsed_only(parse_args))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / program), run_name="__main__")


def method_parsed_only(parse: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`parsed_only`, for a method."""

    def parse_and_stop(self: Any, *arguments: Any, **options: Any) -> Any:
        parse(self, *arguments, **options)
        raise Parsed

    return parse_and_stop


PROGRAMS = [path for path in BENCHMARKS if '__name__ == "__main__"' in path.read_text("utf-8")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_benchmark_has_help(program: Path) -> None:
    command = [sys.executable, str(program), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_make_has_the_targets_that_pages_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make (\w+)", page.read_text("utf-8"), flags=re.MULTILINE)
    }
    assert {"train", "test"} <= named
    assert named <= set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
