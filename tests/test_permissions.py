"""Files and folders have the permissions that the user's umask gives new ones."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import overrides

from lumenspark.cli import run
from lumenspark.files import new_folder, write_file


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def others(folder: Path, umask: int) -> list[str]:
    """What is below ``folder`` with other permissions; files that are only locked are left out."""
    wrong = []
    for path in folder.rglob("*"):
        mode, expected = path.stat().st_mode & 0o777, (0o777 if path.is_dir() else 0o666) & ~umask
        if mode != expected and not path.name.endswith(".lock"):
            wrong.append(f"{path.relative_to(folder)}: {mode:o}, not {expected:o}")
    return wrong


def test_a_file_and_a_folder(umask: int, tmp_path: Path) -> None:
    write_file(tmp_path / "file", "content")
    write_file(tmp_path / "file", "other content")
    with new_folder(tmp_path / "new") as folder:
        (folder / "sub").mkdir()
        for path in (folder / "private", folder / "sub" / "private"):
            path.touch(mode=0o600)  # as safetensors writes weights
    assert others(tmp_path, umask) == []


def test_a_run_a_compressed_model_and_the_caches(
    umask: int, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs", "cache"):
        monkeypatch.setenv(f"LUMENSPARK_{name.upper()}", str(tmp_path / name))
    teachers = ["--distill.teachers", "1", "--distill.steps", "4"]
    assert run(["train", "lumiere-tiny", "--data", str(text_folder), *overrides(), *teachers]) == 0
    assert run(["compress", "latest", str(tmp_path / "small"), "--rank", "4"]) == 0
    assert len(list((tmp_path / "runs").rglob("*.safetensors"))) > 4
    assert len(list((tmp_path / "cache").rglob("*.bin"))) > 2
    assert others(tmp_path, umask) == []
