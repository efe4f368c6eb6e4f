"""Runs with teachers: what lies where, and killing them in any of their phases."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from test_resume import assert_same_end, only_run, resume, start, stop_at

from lumenspark.errors import UserError
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run
from lumenspark.training.budget import fit_budget
from lumenspark.training.setup import set_up
from lumenspark.training.teachers import seconds_to_sample, teacher_recipe
from lumenspark.training.trainer import Trainer

TAUGHT = {"distill__teachers": 2, "distill__steps": 20, "distill__samples": 4}
"""Step 35 is the student's, because teachers end at 20."""


@pytest.fixture(scope="module")
def taught(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("taught")
    process = start(text_folder, runs, **TAUGHT)
    assert process.stdout is not None
    process.stdout.read()
    assert process.wait() == 0
    return only_run(runs)


def test_teachers_lie_below_the_run_and_differ_from_it_and_each_other(taught: Path) -> None:
    folders = [taught, taught / "teachers" / "0", taught / "teachers" / "1"]
    weights = [(run / "checkpoints/last/model.safetensors").read_bytes() for run in folders]
    assert len(set(weights)) == 3
    steps = [json.loads((run / "checkpoints/last/complete.json").read_text()) for run in folders]
    assert [each["step"] for each in steps] == [40, 20, 20]
    assert not (taught / "teachers" / "2").exists()


def test_what_teachers_say_changes_what_is_learned(
    text_folder: Path, taught: Path, tmp_path: Path
) -> None:
    process = start(text_folder, tmp_path)
    assert process.stdout is not None
    process.stdout.read()
    alone = only_run(tmp_path) / "checkpoints" / "last" / "model.safetensors"
    assert alone.read_bytes() != (taught / "checkpoints/last/model.safetensors").read_bytes()


@pytest.mark.parametrize("beginning", ["teacher 2 of 2", "40 steps", "step 35 "])
def test_killed_in_any_phase_and_resumed(
    text_folder: Path, tmp_path: Path, taught: Path, beginning: str
) -> None:
    code = stop_at(start(text_folder, tmp_path, **TAUGHT), beginning, signal.SIGKILL)
    assert code == -signal.SIGKILL
    resume(tmp_path)
    assert_same_end(only_run(tmp_path), taught)


def test_asked_to_stop_while_a_teacher_learns_it_names_the_run(
    text_folder: Path, tmp_path: Path, taught: Path
) -> None:
    process = start(text_folder, tmp_path, **TAUGHT)
    assert stop_at(process, "step 10 ", signal.SIGTERM) == 128 + signal.SIGTERM
    assert not Run(only_run(tmp_path)).has_checkpoints()
    resume(tmp_path, only_run(tmp_path).name)
    assert_same_end(only_run(tmp_path), taught)


def test_a_teacher_is_the_same_recipe_from_another_seed() -> None:
    recipe = with_overrides(load_recipe("lumiere-tiny"), {"distill.teachers": 3, "seed": 5})
    teachers = [teacher_recipe(recipe, number) for number in range(3)]
    assert len({recipe.seed, *(teacher.seed for teacher in teachers)}) == 4
    for teacher in teachers:
        assert (teacher.model, teacher.optim) == (recipe.model, recipe.optim)
        assert teacher.distill.teachers == 0


def test_a_budget_is_for_teachers_too(text_folder: Path) -> None:
    changes: dict[str, object] = {"data": str(text_folder), "budget": "300s", "distill.teachers": 2}
    changes["train.max_epochs"] = None  # the text is small
    recipe = with_overrides(
        load_recipe("lumiere-tiny"), {**changes, "distill.budget_fraction": 0.6}
    )
    setup = fit_budget(set_up(recipe, Reporter()), time.monotonic(), Reporter())
    teachers, own = 2 * setup.recipe.distill.steps, setup.recipe.train.steps
    assert teachers / (teachers + own) == pytest.approx(0.6, abs=0.01)

    samples = np.zeros((len(setup.tokens.splits["train"].ids), 4), np.uint16)  # they are trained
    setup = fit_budget(setup, time.monotonic(), Reporter(), samples)
    assert 2 * setup.recipe.distill.steps == teachers
    assert setup.recipe.train.steps > own  # all that is left is the student's


def test_sampling_the_teachers_counts_before_they_are_trained(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, object] = {"data": str(text_folder), "budget": "300s", "distill.teachers": 2}
    changes["train.max_epochs"] = None  # the text is small
    setup = set_up(with_overrides(load_recipe("lumiere-tiny"), changes), Reporter())
    assert seconds_to_sample(Trainer(setup, Reporter())) > 0

    def steps(seconds: float) -> int:
        monkeypatch.setattr("lumenspark.training.budget.seconds_to_sample", lambda _: seconds)
        recipe = fit_budget(setup, time.monotonic(), Reporter()).recipe
        return 2 * recipe.distill.steps + recipe.train.steps

    assert steps(100.0) < steps(0.0) / 2  # a third of the time is left; steps vary in time
    with pytest.raises(UserError, match="sampling the teachers takes 302 s"):
        steps(151.0)

    samples = np.zeros((len(setup.tokens.splits["train"].ids), 4), np.uint16)  # they are trained
    late = fit_budget(setup, time.monotonic() - 400, Reporter(), samples)
    assert late.recipe.train.steps == 1  # late, but a budget that trained teachers ends in a model
