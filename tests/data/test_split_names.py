"""Which split a file belongs to, by its name."""

from pathlib import Path

import pytest

from lumenspark.data.corpora import open_corpus
from lumenspark.data.split_names import EITHER, split_by_name, splits_of_names
from lumenspark.errors import UserError


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training trn TinyStories-train dataset_train wiki.train"),
        ("train", "train-00000-of-00002 c4-train.00000-of-00512 shard_train_000 train(1)"),
        ("train", "TinyStoriesV2-GPT4-train train-v1.1 trainSet X_train train_10M train-clean-100"),
        ("validation", "valid val dev devel validation openwebtext_val my-corpus.dev val_split"),
        ("validation", "validate corpus_validate"),
        ("test", "test testing tst Test2 XTest testset test-set testdata"),
        (EITHER, "eval evaluation holdout heldout held-out Held_Out my.eval eval-00000-of-00001"),
        (None, "devotion contest latest strain medieval interval greatest pretrain 2024 ''"),
        ("", "train-journeys the-test-of-time training-guide train-test trainval devtest"),
    ],
)  # fmt: skip
def test_a_name_says_a_split_or_none_or_is_unclear(split: str | None, names: str) -> None:
    assert {name: split_by_name(name) for name in names.split()} == dict.fromkeys(
        names.split(), split
    )


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("wikitrain wikitest", ("train", "test")),
        ("train_en test_en", ("train", "test")),
        ("en_train_news en_valid_news", ("train", "validation")),
        ("wikitrain01 wikitest", ("train", "test")),
        ("wikitrain wikieval", ("train", EITHER)),
        ("wikitrain wikidevtest", ("train", "")),
        ("train_books valid_wiki", ("", "")),
        ("contest strain", (None, None)),
    ],
)
def test_names_that_differ_by_a_split_alone_are_splits(
    names: str, splits: tuple[str | None, ...]
) -> None:
    assert tuple(splits_of_names(names.split()).values()) == splits


def folder_of(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    return str(folder)


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("data/train/a.txt", "data/validation/part-1.txt"),
        ("en/train/x.md", "en/dev/y.md"),
        ("Train/a.txt", "val_split/a.txt"),
        ("my-train/the-test-of-time.txt", "my-valid/training-guide.txt"),
        ("train.txt", "dev/a.txt"),
        ("test-drive/train.txt", "test-drive/valid.txt"),
    ],
)
def test_folders_name_splits_and_settle_what_a_file_leaves_open(
    tmp_path: Path, train: str, validation: str
) -> None:
    corpus = open_corpus(folder_of(tmp_path, train, validation))
    assert corpus.splits() == ("train", "validation")
    assert corpus.text("train") == f"{train}\n"
    assert corpus.text("validation") == f"{validation}\n"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train.txt", "eval.txt"], r"1 file looks as if .* validation or test.* \(eval\.txt\)"),
        (["train/test.txt", "train/a.txt"], r"1 file looks .* \(train/test\.txt\)"),
        (["train/heldout.txt", "train/a.txt"], r"\(train/heldout\.txt\)"),
        (["holdout/a.txt", "train/a.txt"], r"\(holdout/a\.txt\)"),
        (["train-books.txt", "valid_wiki.txt", "c.txt"], r"2 files look .* \(train-books\.txt, v"),
        ([f"test-{i}-x/a.txt" for i in range(9)], r"9 files look .*test-4-x/a\.txt, …\)"),
    ],
)  # fmt: skip
def test_what_may_mean_a_split_is_refused_with_what_to_do(
    tmp_path: Path, names: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said) as refusal:
        open_corpus(folder_of(tmp_path, *names))
    assert "name the files of a split train.txt, validation.txt or test.txt" in str(refusal.value)


def test_a_file_that_is_named_alone_is_refused_only_for_what_is_held_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "the-test-of-time.txt", "eval.txt")
    assert open_corpus(f"{folder}/the-test-of-time.txt").is_divided()
    with pytest.raises(UserError, match=r"validation or test"):
        open_corpus(f"{folder}/eval.txt")
