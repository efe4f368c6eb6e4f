"""A figure belongs to the weights that were scored, whatever happens to their folder."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumenspark.cli import run as lumenspark
from lumenspark.data.corpora import Corpus
from lumenspark.errors import UserError
from lumenspark.evaluation import weights as weights_module
from lumenspark.evaluation.results import read_evaluations
from lumenspark.evaluation.weights import load_to_score, weights_in
from lumenspark.files import file_digest, weights_digest
from lumenspark.model_card.card import build_card, check_card, write_card
from lumenspark.upload import push

WRITER = """
import json, sys
from pathlib import Path
from lumenspark.evaluation.results import Evaluation, store
figures = json.loads(sys.argv[2])
for stride in range(1, 11):
    evaluation = Evaluation(**(figures | {"stride": stride}))
    store(Path(sys.argv[1]), evaluation, checkpoint=sys.argv[3], step=1, command="x")
"""


def seal(folder: Path, step: int) -> None:
    marker = folder / "complete.json"
    marker.unlink(missing_ok=True)
    digests = {path.name: file_digest(path) for path in folder.iterdir()}
    marker.write_text(json.dumps({"step": step, "files": digests}))


def flip_signs(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    flipped = {name: -tensor for name, tensor in tensors.items()}
    save_file(flipped, folder / "model.safetensors", {"format": "pt"})


def replace(best: Path, other: Path) -> None:
    """Put another checkpoint in the place of ``best``, as a training does."""
    staged = Path(shutil.copytree(other, best.parent / ".staged"))
    best.rename(best.parent / ".replaced-best")
    staged.rename(best)
    shutil.rmtree(best.parent / ".replaced-best")


@pytest.fixture
def others(run: Path, tmp_path: Path) -> list[Path]:
    """Two checkpoints of other weights and steps, outside of the run."""
    folders = []
    for step in (80, 120):
        folder = Path(shutil.copytree(run / "checkpoints" / "best", tmp_path / f"of-{step}"))
        tensors = load_file(folder / "model.safetensors")
        changed = {name: tensor * (step / 40) for name, tensor in tensors.items()}
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        seal(folder, step)
        folders.append(folder)
    return folders


def test_what_was_scored_is_in_the_figures(run: Path, corpus: Corpus) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    (entry,) = read_evaluations(run)
    assert entry["weights"] == weights_digest(run / "checkpoints" / "best")
    assert entry["step"] == 40


def test_a_checkpoint_that_is_replaced_while_it_is_loaded(
    run: Path, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    best, load, left = run / "checkpoints" / "best", weights_module.load, list(others)

    def load_and_replace(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        if left:
            replace(best, left.pop(0))
        return loaded

    monkeypatch.setattr(weights_module, "load", load_and_replace)
    model, _, found = load_to_score(str(run))
    assert (found.step, found.digest) == (120, weights_digest(others[1]))
    stored = load_file(best / "model.safetensors")["model.norm.weight"]
    assert torch.equal(model.model.norm.weight, stored)


def test_a_checkpoint_that_is_gone_for_a_moment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two renames of a training that replaces it."""
    best, pauses = run / "checkpoints" / "best", []
    best.rename(best.parent / ".replaced-best")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        (best.parent / ".replaced-best").rename(best)

    monkeypatch.setattr(weights_module.time, "sleep", pause)
    assert load_to_score(str(run))[2].step == 40
    assert len(pauses) == 1


def test_weights_that_never_stay(
    run: Path, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    best, load = run / "checkpoints" / "best", weights_module.load
    turn = iter(others * 10)

    def load_and_replace(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        replace(best, next(turn))
        return loaded

    monkeypatch.setattr(weights_module, "load", load_and_replace)
    monkeypatch.setattr(weights_module, "PAUSE", 0.0)
    with pytest.raises(UserError, match="change during loading"):
        load_to_score(str(run))


def test_evaluations_beside_a_training(run: Path, others: list[Path], corpus: Corpus) -> None:
    best = run / "checkpoints" / "best"
    steps, losses = {}, {}
    for folder in (best, *others):
        found = weights_in(folder)
        steps[found.digest] = found.step
        assert lumenspark(["evaluate", str(folder), "--data", corpus.name]) == 0
        (entry,) = read_evaluations(folder)
        losses[found.digest] = entry["loss"]
    ended = threading.Event()

    def train() -> None:
        while not ended.wait(0.1):
            others.append(others.pop(0))
            replace(best, others[0])

    training = threading.Thread(target=train)
    training.start()
    try:
        for stride in range(1, 7):
            arguments = ["evaluate", str(run), "--data", corpus.name, "--stride", str(stride)]
            assert lumenspark([*arguments, "--context", "16"]) in {0, 2}
        assert lumenspark(["evaluate", str(run), "--data", corpus.name]) in {0, 2}
    finally:
        ended.set()
        training.join()
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    for entry in read_evaluations(run):
        assert entry["step"] == steps[entry["weights"]]
        if entry["context"] == 48:
            assert entry["loss"] == pytest.approx(losses[entry["weights"]])


def test_several_processes_lose_no_entry(run: Path, corpus: Corpus) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    (entry,) = read_evaluations(run)
    added = ("checkpoint", "step", "weights", "finished_at", "command")
    figures = json.dumps({name: value for name, value in entry.items() if name not in added})
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(run), figures, name],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for name in "abcd"
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]
    found = {(e["checkpoint"], e["stride"]) for e in read_evaluations(run)[1:]}
    assert found == {(name, stride) for name in "abcd" for stride in range(1, 11)}


def test_altered_weights_get_no_figure_and_no_card(
    run: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    before = read_evaluations(run)
    write_card(run)
    flip_signs(run / "checkpoints" / "best")
    capsys.readouterr()
    for command in (
        ["evaluate", str(run), "--data", corpus.name],
        ["evaluate", str(run / "checkpoints" / "best"), "--data", corpus.name],
        ["card", str(run)],
        ["card", str(run), "--check"],
    ):
        assert lumenspark(command) == 2
        assert "model.safetensors was truncated or altered" in capsys.readouterr().err
    assert read_evaluations(run) == before
    assert not (run / "checkpoints" / "best" / "evaluation.json").exists()
    with pytest.raises(UserError, match="nothing was uploaded"):
        push(run, "someone/tiny", token="hf_x")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modeling_tiny.py"])
def test_every_file_of_a_checkpoint_is_checked(run: Path, name: str, corpus: Corpus) -> None:
    path = run / "checkpoints" / "best" / name
    path.write_bytes(path.read_bytes() + b" ")
    assert lumenspark(["card", str(run)]) == 2
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 2


def test_the_card_shows_the_figures_of_the_weights_that_are_there(
    run: Path, others: list[Path], corpus: Corpus
) -> None:
    best = run / "checkpoints" / "best"
    original = Path(shutil.copytree(best, run.parent / "original"))
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    replace(best, others[0])
    assert "has not been evaluated" in str(build_card(run))
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    first, second = read_evaluations(run)
    assert f"| {second['loss']:.4f} |" in str(build_card(run))
    assert f"| {first['loss']:.4f} |" not in str(build_card(run))
    replace(best, original)
    assert f"| {first['loss']:.4f} |" in write_card(run).read_text(encoding="utf-8")
    assert check_card(run) == []


def test_other_weights_of_the_same_step_have_no_figures(run: Path, corpus: Corpus) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    flip_signs(run / "checkpoints" / "best")
    seal(run / "checkpoints" / "best", 40)
    assert "has not been evaluated" in str(build_card(run))


def test_figures_of_the_first_versions_are_known_by_their_step(run: Path, corpus: Corpus) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    path = run / "evaluation.json"
    (entry,) = json.loads(path.read_text())["evaluations"]
    old = {name: entry[name] for name in entry if name not in {"weights", "notes", "raw_bytes"}}
    path.write_text(json.dumps({"evaluations": [old]}))
    assert f"| {entry['loss']:.4f} |" in str(build_card(run))
    path.write_text(json.dumps({"evaluations": [old | {"step": 20}]}))
    assert "has not been evaluated" in str(build_card(run))
    path.write_text(json.dumps({"evaluations": [old]}))
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    assert [each.get("weights") for each in read_evaluations(run)] == [entry["weights"]]


def test_cards_written_at_once_are_whole(run: Path, corpus: Corpus) -> None:
    assert lumenspark(["evaluate", str(run), "--data", corpus.name]) == 0
    writers = [threading.Thread(target=write_card, args=(run,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert check_card(run) == []
