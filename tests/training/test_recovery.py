"""Runs that go back after a step that was not finite, to their last file; and what is best."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL
from small_training import Collected, rollbacks, small, trainer_of

import lumenspark
from lumenspark import pipeline
from lumenspark.errors import UserError
from lumenspark.files import write_json
from lumenspark.model_card.card import check_card
from lumenspark.runs.checkpoint import State, read_marker, read_state, verify_checkpoint
from lumenspark.runs.run import Run, list_runs, new_run
from lumenspark.sweeps.runner import sweep
from lumenspark.training.checkpointer import Checkpointer
from lumenspark.training.interrupts import Stopped
from lumenspark.training.session import Session
from lumenspark.training.step import StepResult
from lumenspark.training.trainer import Trainer

FINISHED = {
    *("README.md", "checkpoints", "environment.json", "evaluation.json", "loss.svg"),
    *("metrics.jsonl", "recipe.yaml", "samples.json"),
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Gradients that are not finite: as many times, at a step, as the test sets for it.

    ``name=…`` of the recipe, or ``*``, and the step are the key: ``{"* 7": 1}``.
    """
    times: dict[str, int] = {}
    update = Trainer.update

    def sometimes(self: Trainer, step: int, lr_scale: float = 1.0) -> StepResult:
        result = update(self, step, lr_scale)
        for key in (f"{self.recipe.name} {step}", f"* {step}"):
            if times.get(key, 0) > 0:
                times[key] -= 1
                return StepResult(math.nan, math.nan)
        return result

    monkeypatch.setattr(Trainer, "update", sometimes)
    yield times
    assert not any(times.values()), "every one of them was met"


def files(run: Run) -> set[str]:
    return {path.name for path in run.path.iterdir() if not path.name.endswith(".lock")}


def validated(trainer: Trainer, losses: list[float]) -> None:
    values = iter(losses)
    trainer.validation_loss = lambda: next(values)  # type: ignore[method-assign]


def test_a_run_that_goes_back_finishes_with_all_its_files(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 7"] = 1
    run = pipeline.train(small(text_folder), reporter=Collected())
    assert files(run) == FINISHED
    assert [event["step"] for event in rollbacks(run)] == [7]
    assert check_card(run.path) == []
    card = (run.path / "README.md").read_text()
    assert "**Steps:** 12 logged, 12 planned" in card
    assert "<path" in (run.path / "loss.svg").read_text()


def test_a_step_that_fails_last_is_no_logged_step(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 11"] = 1
    recipe = small(text_folder, train__log_every=5)
    run = pipeline.train(recipe, reporter=Collected())
    assert [line["step"] for line in run.metrics() if "loss" in line] == [5, 10, 12]
    assert "**Steps:** 12 logged" in (run.path / "README.md").read_text()


def test_a_run_that_went_back_is_resumed_to_the_same_end(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 7"] = 1
    whole = pipeline.train(small(text_folder), reporter=Collected())

    failing["* 7"] = 1
    stopped, reporter = trainer_of(small(text_folder))
    after_step = stopped._after_step

    def stop_at_nine(session: Session, checkpointer: Checkpointer) -> None:
        if session.state.step == 9:
            session.stop.signal = 15
        after_step(session, checkpointer)

    stopped._after_step = stop_at_nine  # type: ignore[method-assign]
    run = new_run(stopped.recipe)
    with pytest.raises(Stopped):
        stopped.train(run)
    run = pipeline.resume(str(run.path), reporter=reporter)
    assert files(run) == FINISHED
    for name in ("last/model.safetensors", "last/trainer.safetensors", "best/model.safetensors"):
        both = [(each.checkpoints / name).read_bytes() for each in (whole, run)]
        assert both[0] == both[1], name
    assert [event["lr_scale"] for event in rollbacks(run)] == [0.5]
    assert read_state(run.checkpoint("last")).rollbacks == 1


def test_a_teacher_that_goes_back(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["lumiere-tiny, teacher 0 4"] = 1
    distill = {"teachers": 1, "steps": 6, "samples": 4}
    run = lumenspark.train("lumiere-tiny", **SMALL, data=str(text_folder), distill=distill)
    teacher = Run(run.path / "teachers" / "0")
    assert [event["step"] for event in rollbacks(teacher)] == [4]
    assert rollbacks(run) == []
    assert files(run) == FINISHED | {"teachers"}
    assert read_state(teacher.checkpoint("last")).step == 6


def test_a_training_of_a_sweep_that_goes_back(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 7"] = 1
    trials = sweep(
        "lumiere-tiny", **SMALL, data=str(text_folder), vary={"optim.muon_lr": [0.02]}, seeds=1
    )
    (training,) = trials[0].trainings
    run = Run(Path(training.run))
    assert len(rollbacks(run)) == 1
    assert training.steps == 12
    marker = read_marker(run.checkpoint("best"))
    assert (training.loss, training.best_step) == (marker.loss, marker.step)


def test_best_is_kept_while_what_comes_after_going_back_is_worse(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 9"] = 1
    trainer, reporter = trainer_of(small(text_folder, train__save_every=100))
    validated(trainer, [3.0, 2.0, 2.5, 2.4, 2.3])
    run = new_run(trainer.recipe)
    state = trainer.train(run).state
    assert (state.best_loss, state.best_step) == (2.0, 8)
    marker = read_marker(run.checkpoint("best"))
    assert (marker.loss, marker.step) == (2.0, 8)
    best = [each for each in reporter.sentences if "the best so far" in each]
    assert [each.split()[1] for each in best] == ["4", "8"]


def test_patience_runs_out_after_going_back(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 9"] = 1
    recipe = small(
        text_folder, train__save_every=100, train__early_stopping_patience=3, train__steps=40
    )
    trainer, _ = trainer_of(recipe)
    validated(trainer, [3.0, 2.0, 2.5, 2.4, 2.3])
    session = trainer.train(new_run(trainer.recipe))
    assert session.state.step == 12, "three validations after the best one"


def test_a_lower_loss_after_going_back_is_the_best(
    text_folder: Path, own_runs: Path, failing: dict[str, int]
) -> None:
    failing["* 9"] = 1
    trainer, _ = trainer_of(small(text_folder, train__save_every=100))
    validated(trainer, [3.0, 2.0, 2.5, 1.9, 2.3])
    run = new_run(trainer.recipe)
    state = trainer.train(run).state
    assert (state.best_loss, state.best_step) == (1.9, 8)
    assert read_marker(run.checkpoint("best")).loss == 1.9


def killed_after_a_best(text_folder: Path) -> Run:
    """A run that was killed with a ``best`` of step 8, loss 2.0, and a ``last`` of step 6."""
    trainer, _ = trainer_of(small(text_folder, train__save_every=6))
    validated(trainer, [3.0, 2.0])
    update = trainer.update

    def killed(step: int, lr_scale: float) -> StepResult:
        if step == 9:
            raise KeyboardInterrupt
        return update(step, lr_scale)

    trainer.update = killed  # type: ignore[method-assign]
    run = new_run(trainer.recipe)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(run)
    return run


def go_on(run: Run, losses: list[float]) -> tuple[State, Collected]:
    trainer, reporter = trainer_of(run.recipe())
    validated(trainer, losses)
    return trainer.resume(run).state, reporter


def test_a_best_of_a_later_step_than_the_checkpoint_is_kept(
    text_folder: Path, own_runs: Path
) -> None:
    run = killed_after_a_best(text_folder)
    before = (run.checkpoint("best") / "complete.json").read_bytes()
    state, reporter = go_on(run, [2.6, 2.4])
    assert (run.checkpoint("best") / "complete.json").read_bytes() == before
    assert (state.best_loss, state.best_step) == (2.0, 8)
    assert not any("the best so far" in each for each in reporter.sentences)


def test_the_loss_of_a_best_of_an_earlier_version_is_in_the_metrics(
    text_folder: Path, own_runs: Path
) -> None:
    run = killed_after_a_best(text_folder)
    for marker in run.checkpoints.glob("*/complete.json"):
        content = json.loads(marker.read_text())
        write_json(marker, {key: content[key] for key in ("step", "files")})
    state, _ = go_on(run, [2.6, 2.4])
    assert (state.best_loss, state.best_step) == (2.0, 8)
    assert read_marker(run.checkpoint("best")).step == 8


@pytest.mark.parametrize("lost", [True, False])
def test_a_best_that_is_lost_or_damaged_is_made_again(
    text_folder: Path, own_runs: Path, lost: bool
) -> None:
    run = killed_after_a_best(text_folder)
    best = run.checkpoints / "best"
    if lost:
        shutil.rmtree(best)
    else:
        (best / "model.safetensors").write_bytes(b"noise")
    state, reporter = go_on(run, [3.5, 3.1, 3.2])
    assert any("best is now of step 6" in each for each in reporter.sentences)
    assert (state.best_loss, state.best_step) == (3.1, 8)
    assert verify_checkpoint(best) is None
    assert (run.checkpoints / "damaged-best").exists() is not lost


def test_a_finished_run_whose_best_was_lost_is_finished_again(copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints" / "best")
    run = pipeline.resume(str(copied), reporter=Collected())
    assert read_marker(run.checkpoint("best")).step == 12


# What a checkpoint is of


def another(text_folder: Path, **changes: Any) -> Run:
    return pipeline.train(small(text_folder, **changes), reporter=Collected())


def put_in_place(source: Path, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(source, target)


def test_the_last_of_another_run_is_passed_over(
    text_folder: Path, own_runs: Path, copied: Path
) -> None:
    run, other = Run(copied), another(text_folder)
    run.write_recipe(small(text_folder, train__steps=15))
    put_in_place(other.checkpoints / "last", run.checkpoints / "last")
    reporter = Collected()
    pipeline.resume(str(copied), reporter=reporter)
    assert any(f"last belongs to another run, {other.id}" in each for each in reporter.sentences)
    assert any("resuming from step 9" in each for each in reporter.sentences)
    assert read_marker(run.checkpoints / "damaged-last").run == other.id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "another recipe or seed"),
        ({"optim__muon_lr": 0.03}, "another recipe or seed"),
        ({"model__dropout": 0.2}, "another recipe or seed"),
        ({"train__batch_size": 8}, "another recipe or seed"),
        ({"train__ema_decay": 0.5}, "another recipe or seed"),
    ],
)
def test_a_recipe_that_was_edited_is_not_trained_by(
    text_folder: Path, copied: Path, changes: dict[str, Any], words: str
) -> None:
    Run(copied).write_recipe(small(text_folder, **changes))
    with pytest.raises(UserError, match=words):
        pipeline.resume(str(copied), reporter=Collected())
    assert {path.name for path in (copied / "checkpoints").iterdir()} == {
        *("best", "last", "step-000009")
    }


@pytest.mark.parametrize(
    "changes",
    [
        {
            "train__steps": 14,
            "train__save_every": 2,
            "train__log_every": 1,
            "train__keep_checkpoints": 3,
        },
        {
            "train__validate_every": 6,
            "train__early_stopping_patience": 50,
            "train__prompt": "A",
            "name": "mine",
        },
    ],
)
def test_how_long_and_how_often_may_change(
    text_folder: Path, copied: Path, changes: dict[str, Any]
) -> None:
    Run(copied).write_recipe(small(text_folder, **changes))
    run = pipeline.resume(str(copied), reporter=Collected())
    assert read_marker(run.checkpoint("last")).step == changes.get("train__steps", 12)


def test_a_run_that_was_renamed_or_copied_is_the_same_run(text_folder: Path, copied: Path) -> None:
    Run(copied).write_recipe(small(text_folder, train__steps=14))
    moved = copied.rename(copied.with_name("with-a-name-of-mine"))
    run = pipeline.resume(moved.name, reporter=Collected())
    assert read_marker(run.checkpoint("last")).step == 14


def test_checkpoints_of_earlier_versions_are_resumed(text_folder: Path, copied: Path) -> None:
    """They do not say what they are of, and their state has fewer values."""
    for marker in copied.glob("checkpoints/*/complete.json"):
        state = marker.with_name("trainer.json")
        content = json.loads(marker.read_text())
        if state.is_file():
            values = json.loads(state.read_text())
            del values["lowest_loss"]
            write_json(state, values)
            from lumenspark.files import file_digest

            content["files"]["trainer.json"] = file_digest(state)
        write_json(marker, {key: content[key] for key in ("step", "files")})
    environment = copied / "environment.json"
    content = json.loads(environment.read_text())
    del content["run"]
    write_json(environment, content)
    Run(copied).write_recipe(small(text_folder, train__steps=14))
    reporter = Collected()
    run = pipeline.resume(str(copied), reporter=reporter)
    assert any("resuming from step 12" in each for each in reporter.sentences)
    assert read_marker(run.checkpoint("last")).run == run.id
    assert not list(run.path.rglob("damaged-*"))
    assert [each.id for each in list_runs()] == [run.id]


def test_trials_and_teachers_are_told_apart(text_folder: Path, own_runs: Path) -> None:
    distill = {"teachers": 2, "steps": 2, "samples": 4}
    for seed in (0, 1):
        settings = SMALL | {"train.steps": 2, "seed": seed, "data": str(text_folder)}
        sweep("lumiere-tiny", **settings, distill=distill, vary={"optim.muon_lr": [0.02]}, seeds=1)
    markers = own_runs.glob("sweeps/*/trial-*/**/best/complete.json")
    origins = [json.loads(marker.read_text())["run"] for marker in markers]
    assert len(origins) == len(set(origins)) == 6


def test_a_run_whose_validation_is_never_a_number_has_its_end(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.training.trainer.card_loss", lambda *_, **__: (math.nan, 1))
    run = pipeline.train(small(text_folder), reporter=Collected())
    assert read_marker(run.checkpoint("best")).step == 4, "of the first validation"
    assert (run.path / "README.md").is_file()
    assert pipeline.resume(run.id, reporter=Collected()).path == run.path
