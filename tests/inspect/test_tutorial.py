"""docs/looking-inside.md runs as printed, from the first block to the last, but for its training:
a minute in place of three."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "looking-inside.md"
SHORTER = {"--budget 3m": "--train.steps 60 --train.compile off --train.validation_windows 64"}


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block of code."""
    return re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL)


def test_its_pictures_are_there_and_its_blocks_are_of_known_languages() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (TUTORIAL.parent / picture).is_file()
    languages = re.findall(r"^```(\w+)", text, flags=re.MULTILINE)
    assert set(languages) == {"bash", "python", "text"}  # text: what a block printed
    assert len(blocks(text)) == len(languages) - languages.count("text")


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    environment = os.environ | {"LUMENSPARK_RUNS": str(tmp_path / "runs")}
    programs = []
    for language, code in blocks(TUTORIAL.read_text(encoding="utf-8")):
        if language == "python":
            programs.append(code)
            continue
        for full, short in SHORTER.items():
            code = code.replace(full, short)
        for line in code.splitlines():
            command = [sys.executable, "-m", *shlex.split(line)]
            run(command, environment, tmp_path)
    run([sys.executable, "-c", "\n".join(programs)], environment, tmp_path)
    assert (tmp_path / "page.html").is_file()
    assert (tmp_path / "attention.pdf").is_file()


def run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
