"""lumenspark evaluate on a run: its text, its card, and what is printed."""

import io
import json
import os
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lumenspark.cli import run as lumenspark
from lumenspark.data.corpora import Corpus
from lumenspark.evaluation import perplexity
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import Evaluation, read_evaluations, store
from lumenspark.model_card.card import check_card, write_card


def test_the_card_is_written_again(run: Path, corpus: Corpus) -> None:
    path = write_card(run)
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    (entry,) = read_evaluations(run)
    assert f"{entry['bits_per_byte']:.4f}" in path.read_text(encoding="utf-8")
    assert check_card(run) == []


def test_a_card_about_another_checkpoint_stays(run: Path, corpus: Corpus) -> None:
    (run / "checkpoints" / "best").rename(run / "checkpoints" / "last")
    before = write_card(run, "last").read_text(encoding="utf-8")
    (run / "checkpoints" / "last").rename(run / "checkpoints" / "best")
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    assert (run / "README.md").read_text(encoding="utf-8") == before


def test_without_a_card_none_is_written(run: Path, corpus: Corpus) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    assert not (run / "README.md").exists()


def test_json_and_nothing_else(
    run: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    write_card(run)
    capsys.readouterr()
    assert lumenspark(["evaluate", str(run), "--data", corpus.name, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["loss"] == read_evaluations(run)[0]["loss"]


def test_the_field_and_the_part_of_a_set_can_be_named(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "small"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"body": "Water boils ."}\n')
    arguments = ["evaluate", str(run), "--data", str(folder.parent)]
    assert lumenspark([*arguments, "--corpus.config", "small", "--corpus.text-field", "body"]) == 0
    (entry,) = read_evaluations(run)
    assert entry["bytes"] == len("Water boils .")


def test_figures_of_parts_and_fields_of_a_set_stand_beside_each_other(
    run: Path, tmp_path: Path
) -> None:
    for part, text in (("small", "Water boils ."), ("large", "The lid of a kettle is hot .")):
        folder = tmp_path / "set" / part
        folder.mkdir(parents=True)
        row = json.dumps({"text": text, "title": f"{text} A pot"})
        (folder / "test.jsonl").write_text(row + "\n")
    write_card(run)
    ways = [(part, field) for part in ("small", "large") for field in ("text", "title")]
    for part, field in [*ways, ways[0]]:
        options = [
            "--data",
            str(tmp_path / "set"),
            "--corpus.config",
            part,
            "--corpus.text-field",
            field,
        ]
        assert lumenspark(["evaluate", str(run), *options]) == 0
    entries = read_evaluations(run)
    assert [(entry["config"], entry["text_field"]) for entry in entries] == [*ways[1:], ways[0]]
    card = (run / "README.md").read_text(encoding="utf-8")
    for row in (
        "| set, configuration small | test |",
        "| set, configuration large, field title | test |",
    ):
        assert card.count(row) == 1
    assert check_card(run) == []


def test_figures_of_both_layouts_of_a_text_stand_beside_each_other(
    run: Path, corpus: Corpus, tmp_path: Path
) -> None:
    write_card(run)
    layouts = ("plain", "wikitext")
    for layout in (*layouts, layouts[0]):
        options = ["--data", corpus.name, "--corpus.layout", layout, "--protocol", "card"]
        assert lumenspark(["evaluate", str(run), *options]) == 0
    entries = {entry["layout"]: entry for entry in read_evaluations(run)}
    assert len(read_evaluations(run)) == len(entries) == 2
    assert entries["plain"]["targets"] > entries["wikitext"]["targets"]
    card = (run / "README.md").read_text(encoding="utf-8")
    for layout in layouts:
        assert card.count(f", layout {layout} | test | card |") == 1
    assert check_card(run) == []


def test_figures_of_two_revisions_of_a_set_stand_beside_each_other(
    run: Path, corpus: Corpus, tmp_path: Path
) -> None:
    lumenspark(["evaluate", str(run), "--data", corpus.name])
    (entry,) = read_evaluations(run)
    named = {field.name for field in fields(Evaluation)}
    found = Evaluation(**{name: value for name, value in entry.items() if name in named})
    for revision in ("1" * 40, "2" * 40, "1" * 40):
        store(
            tmp_path,
            replace(found, hub_id="someone/texts", revision=revision),
            checkpoint="best",
            step=1,
            command="",
        )
    assert [entry["revision"] for entry in read_evaluations(tmp_path)] == ["2" * 40, "1" * 40]


def test_figures_are_kept_where_they_cannot_be_printed(
    run: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_card(run)
    reader, writer = os.pipe()
    os.close(reader)  # as after `| head`
    with monkeypatch.context() as patch, os.fdopen(writer, "w", buffering=1) as pipe:
        patch.setattr(sys, "stdout", pipe)
        lumenspark(["evaluate", str(run), "--data", corpus.name])
    (entry,) = read_evaluations(run)
    assert f"{entry['bits_per_byte']:.4f}" in path.read_text(encoding="utf-8")


def test_figures_are_printed_where_they_cannot_be_kept(
    run: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation.json").write_text("[")
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 2
    printed = capsys.readouterr()
    assert "bits per byte" in printed.out
    assert "evaluation.json cannot be read" in printed.err


def test_a_run_that_is_deleted_while_it_is_scored_stays_deleted(
    run: Path,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def score_and_delete(*arguments: Any, **options: Any) -> Evaluation:
        found = evaluate(*arguments, **options)
        shutil.rmtree(run)
        return found

    monkeypatch.setattr(perplexity, "evaluate", score_and_delete)
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 2
    printed = capsys.readouterr()
    assert "bits per byte" in printed.out
    assert "was deleted during scoring" in printed.err
    assert not run.exists()


@pytest.mark.parametrize("option", ["layout", "text-field", "config", "revision"])
def test_how_to_read_a_text_needs_a_text(
    run: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = "plain" if option == "layout" else "other"
    assert lumenspark(["evaluate", str(run), f"--corpus.{option}", value]) == 2
    assert f"--corpus.{option} needs --data" in capsys.readouterr().err


def test_headings_are_for_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(run), "--data", "python-docs", "--corpus.headings", "keep"]
    assert lumenspark(arguments) == 2
    assert "--corpus.headings is for training" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_progress(
    run: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert lumenspark(["evaluate", str(run), "--data", corpus.name, "--json"]) == 0
    assert "scoring" in terminal.getvalue()
    json.loads(capsys.readouterr().out)
