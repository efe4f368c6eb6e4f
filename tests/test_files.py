"""Files and folders: whole or not at all, and never in the place of something else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lumenspark.errors import UserError
from lumenspark.files import new_folder, remove_leftovers, weights_digest, write_file, write_json


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
        with pytest.raises(UserError, match="exists already"), new_folder(taken):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match="cannot be created: "),
        new_folder(tmp_path / "file" / "new"),
    ):
        pass


def test_a_folder_that_cannot_be_filled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="new cannot be written"), new_folder(tmp_path / "new") as _:
        (tmp_path / "new").write_text("somebody was faster")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(OSError, match="taken") as caught:
        write_file(tmp_path / "taken", "content")
    assert caught.value.filename == str(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_json_holds_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "file.json", {"name": name, "other": "é"})
    assert json.loads((tmp_path / "file.json").read_text("utf-8")) == {"name": name, "other": "é"}


IN_THE_MIDDLE = """
import sys
from pathlib import Path
from lumenspark import files
folder = Path(sys.argv[1])
def stop(*_):
    print("ready", flush=True)
    sys.stdin.read()
files.os.fsync = stop
with files.temporary_folder(folder, ".making-") as made:
    (made / "half").write_text("half")
    files.write_file(folder / "evaluation.json", "half")
"""


def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    mine = tmp_path / ".env.template"
    mine.write_text("not temporary")
    command = [sys.executable, "-c", IN_THE_MIDDLE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 3  # the folder, the half-written file, mine
        process.kill()
        process.wait()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def test_changes_wait_for_each_other(tmp_path: Path) -> None:
    """Four processes that add to one file, many times: no entry is lost."""
    script = """
import json, sys
from pathlib import Path
from lumenspark.files import changing, write_json
path = Path(sys.argv[1])
for _ in range(25):
    with changing(path):
        number = json.loads(path.read_text()) if path.exists() else 0
        write_json(path, number + 1)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "number.json")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert json.loads((tmp_path / "number.json").read_text()) == 100


def test_weights_are_known_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = weights_digest(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert weights_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert weights_digest(tmp_path) != before


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes there")
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "page.html"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="a device or a pipe") as raised:
        write_file(pipe, "content")
    assert raised.value.filename == str(pipe)
    assert pipe.is_fifo()
