"""Checkpoints are whole or absent, and what is damaged is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lumenspark import pipeline
from lumenspark.errors import UserError
from lumenspark.recipe import with_overrides
from lumenspark.runs.checkpoint import (
    latest_valid_checkpoint,
    load_weights,
    recover_interrupted_saves,
    verify_checkpoint,
)
from lumenspark.runs.run import Run


def test_every_checkpoint_is_a_plain_folder_that_transformers_loads(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import lumenspark.models  # noqa: F401

    folders = [marker.parent for marker in (trained / "checkpoints").glob("*/complete.json")]
    assert {"best", "last"} <= {folder.name for folder in folders}
    for folder in folders:
        assert verify_checkpoint(folder) is None
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = AutoTokenizer.from_pretrained(folder)("The list", return_tensors="pt").input_ids
        assert model(ids).logits.isfinite().all()
        assert not list(folder.glob("*.bin")), "weights are safetensors"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "was truncated or altered"),
        (lambda f: (f / "trainer.json").unlink(), "trainer.json is missing"),
        (lambda f: (f / "complete.json").unlink(), "is not complete"),
        (lambda f: (f / "complete.json").write_text("{"), "complete.json is damaged"),
        (lambda f: (f / "complete.json").write_text('{"files": 3}'), "complete.json is damaged"),
    ],
)
def test_damage_is_named_and_passed_over(copied: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    checkpoints = copied / "checkpoints"
    damage(checkpoints / "last")
    good, problems = latest_valid_checkpoint(checkpoints)
    assert good.name == "step-000009"
    assert len(problems) == 1
    assert words in problems[0]
    run = Run(copied)
    run.write_recipe(with_overrides(run.recipe(), {"train.steps": 16}))
    pipeline.resume(str(copied))
    assert verify_checkpoint(checkpoints / "last") is None
    assert {path.name for path in checkpoints.iterdir()} == {
        "best",
        "last",
        "damaged-last",
        "step-000015",
    }


def test_no_checkpoint_at_all(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint to resume from"):
        latest_valid_checkpoint(tmp_path)
    for folder in (copied / "checkpoints").iterdir():
        (folder / "config.json").write_text("{}")
    (copied / "checkpoints" / "step-by-hand").mkdir()
    with pytest.raises(UserError, match=r"can be resumed from: .*altered"):
        latest_valid_checkpoint(copied / "checkpoints")


def test_a_save_that_was_killed_half_way_is_tidied_up(copied: Path) -> None:
    checkpoints = copied / "checkpoints"
    shutil.copytree(checkpoints / "last", checkpoints / ".saving-abc")
    (checkpoints / "best").rename(checkpoints / ".replaced-best")
    recover_interrupted_saves(checkpoints)
    assert (checkpoints / "best" / "complete.json").is_file()
    assert not list(checkpoints.glob(".*"))


def test_a_missing_checkpoint_is_answered_with_those_there_are(trained: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint 'worst': it has best, last"):
        Run(trained).checkpoint("worst")


def test_weights_are_restored_to_the_bit(trained: Path) -> None:
    from lumenspark import load

    model, _ = load(str(trained))
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    load_weights(model, trained / "checkpoints" / "best")
    assert all(torch.equal(state[name], p) for name, p in model.named_parameters())


def test_trainer_values_are_plain_json(trained: Path) -> None:
    values = json.loads((trained / "checkpoints" / "last" / "trainer.json").read_text())
    assert values["step"] == 12
    assert values["rollbacks"] == 0
