"""The pages of the documentation, and the code and commands in them."""

import ast
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "records/README.md")
] + sorted((ROOT / "docs").rglob("*.md"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_PROGRAM = re.compile(r"(lumenspark|python benchmarks/\w+\.py)(\s|$)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: its file, relative to the repository.
        line: the line of its first line of code.
        language: as written after the fence; empty for none.
        code: without indentation.
    """

    page: str
    line: int
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(ROOT))
    return [
        Block(name, text[: match.start(3)].count("\n") + 1, match[2], textwrap.dedent(match[3]))
        for match in _FENCE.finditer(text)
    ]


def commands_of_page(page: Path) -> Iterator[str]:
    """Each command line of ours on a page: in blocks of bash, and between backticks in the text."""
    for block in blocks(page):
        if block.language == "bash":
            yield from _commands(block.code)
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in _INLINE.findall(prose):
        yield from _commands(" ".join(span.split()))


def commands_of_docstring(program: Path) -> Iterator[str]:
    """Each command line of ours in the docstring of a module."""
    text = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    yield from _commands(text)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        yield from _commands(" ".join(span.split()))


def _commands(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        if _PROGRAM.match(line.strip()):
            yield line.strip()


def words(command: str) -> list[str]:
    """The words of a command line as a shell splits it, comments left out."""
    return shlex.split(command, comments=True)


def train_briefly(folder: Path, steps: int = 60) -> None:
    """Train ``lumiere-1m`` for a minute, so that ``latest`` names it; ``folder`` is for runs."""
    settings = {"steps": steps, "compile": "off", "validation_windows": 64}
    command = [sys.executable, "-m", "lumenspark", "train", "lumiere-1m"]
    for name, value in settings.items():
        command += [f"--train.{name}", str(value)]
    offline = {"HF_HUB_OFFLINE": "1"}  # the recipe's data: auto asks no hub
    run(command, {"LUMENSPARK_RUNS": str(folder)} | offline, ROOT)


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What a program prints, run in ``folder``."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
