"""A cache of token ids in which anything was done to anything gives the ids of the text."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lumenspark.data.corpora import open_corpus
from lumenspark.data.tokens import PreparedTokens, prepare

FILES = ("train.bin", "train.offsets.bin", "test.bin", "tokenizer.json", "meta.json")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name in ("train", "test"):
        lines = (f"{name} line {i} of {i * 37 % 11} words\n" for i in range(60))
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def prepared(text: Path, cache: Path) -> PreparedTokens:
    return prepare(open_corpus(str(text)), vocab_size=270, cache=cache)


def flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def cut(path: Path, dice: random.Random) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size))


def shuffle(path: Path, dice: random.Random) -> None:
    data = list(path.read_bytes())
    dice.shuffle(data)
    path.write_bytes(bytes(data))


def fill(path: Path, dice: random.Random) -> None:
    path.write_bytes(dice.randbytes(path.stat().st_size))


def remove(path: Path, dice: random.Random) -> None:
    path.unlink()


def replace(path: Path, dice: random.Random) -> None:
    path.unlink()
    dice.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path.name)])()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, cut, shuffle, fill, remove, replace])
def test_a_damaged_entry_gives_the_ids_of_the_text(
    text: Path, tmp_path: Path, name: str, damage: Callable[[Path, random.Random], None]
) -> None:
    whole = prepared(text, tmp_path)
    expected = {path.name: path.read_bytes() for path in whole.folder.iterdir()}
    dice = random.Random(f"{name} {damage.__name__}")
    for _ in range(5):
        damage(whole.folder / name, dice)
        tokens = prepared(text, tmp_path)
        assert {path.name: path.read_bytes() for path in tokens.folder.iterdir()} == expected
        assert os.listdir(tmp_path / "tokens") == [tokens.folder.name]  # noqa: PTH208


def test_an_entry_of_another_text_under_its_name_is_not_taken(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.txt").write_text("other text\n" * 99)
    (other / "test.txt").write_text("other text\n")
    first, second = prepared(text, tmp_path / "cache"), prepared(other, tmp_path / "cache")
    expected = second.splits["train"].ids.tolist()
    shutil.rmtree(second.folder)
    shutil.copytree(first.folder, second.folder)
    assert prepared(other, tmp_path / "cache").splits["train"].ids.tolist() == expected


def test_a_file_in_the_place_of_an_entry_is_replaced(text: Path, tmp_path: Path) -> None:
    folder = prepared(text, tmp_path).folder
    shutil.rmtree(folder)
    folder.write_text("no folder")
    assert prepared(text, tmp_path).folder.is_dir()
