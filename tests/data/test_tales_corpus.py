"""The corpus of made stories: splits, sizes, entropy, and files with facts."""

import json
from pathlib import Path

import pytest

from lumenspark.data.corpora import open_corpus
from lumenspark.data.tales.corpus import Tales, is_tales
from lumenspark.errors import UserError


def test_the_name_gives_the_size() -> None:
    small, whole = open_corpus("tales-1mb"), open_corpus("tales")
    assert small.name == "tales-1mb"
    assert len(small.text("train").encode()) == pytest.approx(1e6, rel=0.2)
    assert small.size("train") == 1_000_000
    assert whole.size("train") == 20_000_000
    assert small.digest() != whole.digest()


def test_validation_and_test_are_the_same_for_each_size_and_no_story_is_in_two_splits() -> None:
    small, other = open_corpus("tales-1mb"), open_corpus("tales-2mb")
    stories = {
        split: {piece.text for piece in small.pieces(split)}
        for split in ("train", "validation", "test")
    }
    for split in ("validation", "test"):
        assert small.text(split) == other.text(split)
    assert not stories["train"] & stories["test"]
    assert not stories["train"] & stories["validation"]
    assert not stories["validation"] & stories["test"]


@pytest.mark.parametrize("name", ["tales-", "tales-0mb", "tales-5gb", "tales-9999999mb"])
def test_a_size_that_is_none(name: str) -> None:
    with pytest.raises(UserError, match="write tales, or tales-100mb for another size"):
        open_corpus(name)


@pytest.mark.parametrize("name", ["tales-lab/stories", "tales-old.txt", "tales-a/b/c"])
def test_a_path_or_a_hub_id_with_such_a_beginning_is_none_of_ours(name: str) -> None:
    assert not is_tales(name)


def test_the_entropy_is_that_of_the_choices() -> None:
    corpus = open_corpus("tales-1mb")
    test, validation = corpus.entropy("test"), corpus.entropy("validation")
    assert test is not None
    assert validation is not None
    assert 0.05 < test < 0.5
    assert test == pytest.approx(validation, rel=0.05)  # other stories of the same distribution


def test_a_text_of_unknown_origin_has_no_entropy(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once.\n")
    assert open_corpus(str(tmp_path / "text.txt")).entropy("train") is None


def test_facts_stand_beside_the_text(tmp_path: Path) -> None:
    Tales("tales-1mb").write_facts(tmp_path / "out")
    text = (tmp_path / "out" / "test.txt").read_text("utf-8")
    assert text == open_corpus("tales-1mb").text("test")
    lines = (tmp_path / "out" / "test.facts.jsonl").read_text("utf-8").splitlines()
    stories = [json.loads(line) for line in lines]
    assert len(stories) == sum(1 for _ in open_corpus("tales-1mb").pieces("test"))
    pronouns = 0
    for story in stories:
        for sentence in story["sentences"]:
            for pronoun in sentence["pronouns"]:
                start, end = (story["start"] + place for place in pronoun["span"])
                assert text[start:end] == pronoun["word"]
                pronouns += 1
    assert pronouns > len(stories)


def test_a_folder_with_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="give a new or empty folder"):
        Tales("tales-1mb").write_facts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
