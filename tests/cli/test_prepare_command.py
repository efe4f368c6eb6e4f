"""lumenspark prepare: what a person reads of the text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lumenspark.cli import run


def test_every_split_is_printed_with_files_documents_and_bytes(
    text_folder: Path, tmp_path: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(text_folder, tmp_path / "text"))
    (folder / "paper.pdf").write_bytes(b"")
    arguments = ("prepare", "lumiere-tiny", "--data", folder)
    made, kept = call(*arguments).splitlines(), call(*arguments).splitlines()
    assert made[0] == kept[0] == "left out: 1 file (paper.pdf)"
    assert made[-4:] == kept[1:]  # as well when it comes from the cache
    for line, name, count in zip(
        kept[1:4], ("train", "validation", "test"), (24, 6, 6), strict=True
    ):
        assert line.startswith(f"{name}: 1 file, {count} documents, ")
        assert " bytes, " in line
        assert line.endswith(" tokens")


def test_text_without_validation_is_refused_before_it_is_tokenised(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "test"):
        shutil.copy(text_folder / f"{name}.jsonl", tmp_path)
    for verb in ("prepare", "train"):
        assert run([verb, "lumiere-tiny", "--data", str(tmp_path)]) == 2
        printed = capsys.readouterr()
        assert "has no validation split, only train, test: name a file of it" in printed.err
        assert "learning" not in printed.out


def test_a_missing_text_field_is_said_as_the_options_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n')
    assert run(["prepare", "lumiere-tiny", "--data", str(tmp_path)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert (
        "has no field 'text' (it has: 'content'): name the right one with --corpus.text-field"
        in error
    )


def test_evaluate_says_what_it_leaves_out_beside_the_figures(
    copied: Path, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(text_folder, tmp_path / "text"))
    (folder / "paper.pdf").write_bytes(b"")
    assert run(["evaluate", str(copied), "--data", str(folder), "--json"]) == 0
    printed = capsys.readouterr()
    assert "left out: 1 file (paper.pdf)" in printed.err
    assert json.loads(printed.out)["split"] == "test"


def test_a_corpus_can_be_named_instead_of_a_recipe_and_its_facts_written(
    tmp_path: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    printed = call("prepare", "tales-1mb", "--facts")
    assert "train: 1,000 documents, " in printed
    assert f"text and facts: {tmp_path / 'tales-1mb-facts'}" in printed
    assert "bits per byte, which no model can beat" in printed
    text = (tmp_path / "tales-1mb-facts" / "validation.txt").read_text("utf-8")
    facts = (
        (tmp_path / "tales-1mb-facts" / "validation.facts.jsonl").read_text("utf-8").splitlines()
    )
    first, second = map(json.loads, facts[:2])
    assert run(["prepare", "tales-1mb", "--facts"]) == 2  # and tales is still the corpus
    assert text[first["start"] : second["start"]].count("\n") >= 1


def test_facts_are_for_made_stories(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prepare", "lumiere-tiny", "--data", str(text_folder), "--facts"]) == 2
    assert "--facts is for tales, not for" in capsys.readouterr().err
