"""A new folder: whole or not at all, and never in the place of something else."""

import os
from pathlib import Path

import pytest

from lumenspark.errors import UserError
from lumenspark.files import new_folder


def test_what_was_made_is_there_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "new") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("content")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "sub" / "file").read_text() == "content"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_stays_itself(tmp_path: Path) -> None:
    """As the current folder, or one that a disk is mounted on."""
    before = tmp_path.stat().st_ino
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with new_folder(Path()) as folder:
            (folder / "file").write_text("content")
        assert Path("file").read_text() == "content"
    finally:
        os.chdir(here)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert tmp_path.stat().st_ino == before


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is there already"), new_folder(taken):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match="cannot be made: "),
        new_folder(tmp_path / "file" / "new"),
    ):
        pass


def test_a_folder_that_cannot_be_filled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="new cannot be filled"), new_folder(tmp_path / "new") as _:
        (tmp_path / "new").write_text("somebody was faster")
