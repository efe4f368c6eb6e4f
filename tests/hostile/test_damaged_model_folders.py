"""Model folders that are damaged, or made to do harm: a command works, or says why in a sentence.

Each case is a copy of a small model in which one thing is wrong, and one command that reads it.
The four families share the cases, so that each is tried with some of every kind.
"""

import shutil
from pathlib import Path

import pytest
from model_folders import (
    FAMILIES,
    TEXT,
    Damage,
    file_cases,
    key_cases,
    save_family,
    tokenizer_cases,
    weight_cases,
)

from lumenspark.cli import run

EVERY = 9
LONGEST = 900  # characters of a sentence, paths and quoted values included
# Some take longer than others, and less often find something.
COMMANDS = ("generate", "evaluate", "generate", "evaluate", "generate", "inspect", "compress")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("originals")
    return {family: save_family(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "test.txt").write_text(TEXT * 3)
    return folder


def all_cases(root: Path) -> list[tuple[str, str, str, Damage]]:
    """Family, command, what is wrong, and what makes it so."""
    chosen = []
    for offset, family in enumerate(FAMILIES):
        folder = save_family(family, root / family)
        cases = [*file_cases(), *weight_cases(), *tokenizer_cases(folder), *key_cases(folder)]
        for number, (name, damage) in enumerate(cases[2 * offset :: EVERY]):
            chosen.append((family, COMMANDS[number % len(COMMANDS)], name, damage))
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "damage" not in metafunc.fixturenames:
        return
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        cases = all_cases(Path(root))
    assert len(cases) >= 600
    names = [f"{family}, {command}: {name}" for family, command, name, _ in cases]
    metafunc.parametrize(("family", "command", "name", "damage"), cases, ids=names)


def test_a_damaged_folder(
    family: str,
    command: str,
    name: str,
    damage: Damage,
    originals: dict[str, Path],
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(originals[family], folder)
    damage(folder)
    out = tmp_path / "out"
    arguments = {
        "generate": ["the lamp", "--max-new-tokens", "20"],
        "evaluate": ["--data", str(text)],
        "inspect": ["the lamp", "-o", str(out)],
        "compress": [str(out), "--rank", "2"],
    }[command]
    code = run([command, str(folder), *arguments])
    printed = capsys.readouterr().err
    if code == 0:
        return
    assert code == 2, printed
    assert printed.startswith("lumenspark: ")
    assert printed.count("\n") == 1
    assert len(printed) < LONGEST
    assert not out.exists()
