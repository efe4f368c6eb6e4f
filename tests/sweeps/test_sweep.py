"""Sweeps from Python: what is tried, what comes of it, and what is refused before any training."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from command_line import SMALL
from filelock import FileLock
from rich.console import Console

import lumenspark
from lumenspark.device import has_compiler
from lumenspark.errors import UserError
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run, list_runs
from lumenspark.sweeps.runner import sweep
from lumenspark.sweeps.search import Sampler
from lumenspark.sweeps.space import Range, make_space
from lumenspark.sweeps.trials import Training, Trial, best_first

WEIGHTS = Path("checkpoints", "best", "model.safetensors")
RATES = {"optim.muon_lr": [0.01, 0.04]}


@pytest.fixture
def printed() -> Reporter:
    return Reporter(Console(record=True, width=200, file=Path(os.devnull).open("w")))


def small_sweep(text: Path, **changes: Any) -> list[Trial]:
    """A sweep of lumiere-tiny, a second for each training. ``train__steps``: a recipe's key."""
    settings = {name.replace("__", "."): value for name, value in changes.items()}
    return sweep(
        "lumiere-tiny", **(SMALL | {"data": str(text), "train.save_every": 100} | settings)
    )


def only_sweep(runs: Path) -> Path:
    (folder,) = (runs / "sweeps").iterdir()
    return folder


def losses(trials: list[Trial]) -> list[tuple[dict[str, Any], list[float]]]:
    return [(trial.values, trial.losses) for trial in trials]


def test_a_grid_is_every_combination_best_first(text_folder: Path, own_runs: Path) -> None:
    trials = small_sweep(text_folder, vary={**RATES, "train.batch_size": "2, 4"}, seeds=2)
    assert sorted(tuple(trial.values.values()) for trial in trials) == [
        (0.01, 2),
        (0.01, 4),
        (0.04, 2),
        (0.04, 4),
    ]
    assert [trial.mean for trial in trials] == sorted(trial.mean for trial in trials)
    for trial in trials:
        assert [training.seed for training in trial.trainings] == [0, 1]
        assert trial.mean == fmean(trial.losses)
        assert trial.spread == stdev(trial.losses)
        for training in trial.trainings:
            run = Run(Path(training.run))
            recipe = run.recipe()
            assert (recipe.optim.muon_lr, recipe.train.batch_size) == tuple(trial.values.values())
            assert recipe.seed == training.seed
            validations = [m["validation_loss"] for m in run.metrics() if "validation_loss" in m]
            assert training.loss == min(validations)
            assert (training.steps, training.tokens) == (12, 12 * 32 * recipe.train.batch_size)


def test_a_sweep_leaves_what_it_asked_and_a_line_for_each_trial(
    text_folder: Path, own_runs: Path
) -> None:
    trials = small_sweep(text_folder, vary=RATES, seeds=1)
    folder = only_sweep(own_runs)
    asked = json.loads((folder / "sweep.json").read_text())
    assert asked["vary"] == RATES
    assert (asked["seeds"], asked["trials"]) == ([0], None)
    assert asked["recipe"]["train"]["steps"] == 12
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2]
    by_number = {trial.number: trial for trial in trials}
    assert [by_number[n["number"]].losses[0] for n in lines] == [
        line["trainings"][0]["loss"] for line in lines
    ]
    assert list_runs() == [], "the list of runs is not flooded"
    assert not list(folder.rglob("evaluation.json")), "nothing was scored on the test split"
    assert {path.parent.name for path in folder.rglob("complete.json")} == {"best"}


def test_a_trial_is_the_training_that_train_does(
    trained: Path, text_folder: Path, own_runs: Path
) -> None:
    trials = small_sweep(text_folder, vary={"optim.muon_lr": [0.04, 0.02]}, seeds=1)
    (same,) = (trial for trial in trials if trial.values["optim.muon_lr"] == 0.02)
    assert (Path(same.trainings[0].run) / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()


def test_a_trial_trains_its_teachers_first(text_folder: Path, own_runs: Path) -> None:
    distill = {"teachers": 1, "steps": 6, "weight": 0.5}
    trials = small_sweep(text_folder, vary={"distill.weight": [0.5]}, seeds=1, distill=distill)
    run = lumenspark.train("lumiere-tiny", **SMALL, data=str(text_folder), distill=distill)
    swept = Path(trials[0].trainings[0].run)
    assert (swept / WEIGHTS).read_bytes() == (run.path / WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler("cpu"), reason="there is no C++ compiler here")
def test_what_is_compiled_for_other_trials_changes_no_bit(
    text_folder: Path, own_runs: Path
) -> None:
    compiled = {"train.compile": "on"}
    trials = small_sweep(text_folder, vary={"train.batch_size": [2, 4]}, seeds=1, **compiled)
    (last,) = (trial for trial in trials if trial.number == 2)
    settings = SMALL | compiled | last.values
    run = lumenspark.train("lumiere-tiny", data=str(text_folder), **settings)
    swept = Path(last.trainings[0].run)
    assert (swept / WEIGHTS).read_bytes() == (run.path / WEIGHTS).read_bytes()


def test_a_text_without_a_test_split(text_folder: Path, tmp_path: Path, own_runs: Path) -> None:
    text = Path(shutil.copytree(text_folder, tmp_path / "text"))
    (text / "test.jsonl").unlink()
    assert len(small_sweep(text, vary=RATES, seeds=1)) == 2


def test_the_same_sweep_again_trains_nothing(
    text_folder: Path, own_runs: Path, printed: Reporter
) -> None:
    first = small_sweep(text_folder, vary=RATES, seeds=2)
    again = small_sweep(text_folder, vary=RATES, seeds=2, reporter=printed)
    assert again == first
    assert "2 of them finished" in printed.console.export_text(clear=False)
    assert "trial 1" not in printed.console.export_text()


def test_other_settings_are_another_sweep(
    text_folder: Path, tmp_path: Path, own_runs: Path
) -> None:
    text = Path(shutil.copytree(text_folder, tmp_path / "text"))
    for seeds, steps in ((1, 4), (2, 4), (1, 5)):
        small_sweep(text, vary=RATES, seeds=seeds, train__steps=steps)
    with (text / "train.jsonl").open("a") as file:
        file.write('\n{"text": "One more document."}')
    small_sweep(text, vary=RATES, seeds=1, train__steps=4)
    assert len(list((own_runs / "sweeps").iterdir())) == 4


def test_architectures_are_compared(text_folder: Path, own_runs: Path) -> None:
    vary = {"model.hidden_size": "32,64", "model.dropout": "0,0.1"}
    trials = small_sweep(text_folder, vary=vary, seeds=1, train__steps=4)
    assert {trial.values["model.hidden_size"] for trial in trials} == {32, 64}
    for trial in trials:
        config = json.loads(
            (Path(trial.trainings[0].run) / WEIGHTS).with_name("config.json").read_text()
        )
        assert config["hidden_size"] == trial.values["model.hidden_size"]


def test_a_trial_that_diverges_is_the_last_and_ends_nothing(
    text_folder: Path, own_runs: Path
) -> None:
    vary = {"optim.adamw_lr": [1e36, 0.01]}
    trials = small_sweep(text_folder, vary=vary, seeds=2, optim__muon_lr=1e36, optim__name="adamw")
    assert [trial.values["optim.adamw_lr"] for trial in trials] == [0.01, 1e36]
    assert [trial.diverged for trial in trials] == [False, True]
    assert len(trials[1].trainings) == 1, "no other seed is tried"
    assert (
        small_sweep(text_folder, vary=vary, seeds=2, optim__muon_lr=1e36, optim__name="adamw")
        == trials
    )


def test_ranges_are_drawn_from_and_drawn_again_alike(
    text_folder: Path, own_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vary = {"optim.muon_lr": "0.005..0.05", "train.batch_size": "2..5", "optim.name": "muon,adamw"}
    first = small_sweep(text_folder, vary=vary, trials=3, seeds=1, train__steps=4)
    for trial in first:
        assert 0.005 <= trial.values["optim.muon_lr"] <= 0.05
        assert trial.values["train.batch_size"] in range(2, 6)
        assert trial.values["optim.name"] in {"muon", "adamw"}
    assert small_sweep(text_folder, vary=vary, trials=3, seeds=1, train__steps=4) == first
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "other"))
    other = small_sweep(text_folder, vary=vary, trials=3, seeds=1, train__steps=4)
    assert losses(other) == losses(first)


def test_what_is_drawn_twice_is_trained_once(text_folder: Path, own_runs: Path) -> None:
    trials = small_sweep(text_folder, vary={"optim.muon_lr": [0.02]}, trials=3, seeds=1)
    assert {trial.trainings[0].run for trial in trials} == {trials[0].trainings[0].run}
    assert len(trials) == 3


def trial_with(values: dict[str, Any], results: list[float], pruned: bool = False) -> Trial:
    trainings = [Training(seed, loss, 1, 1, 1, 1.0, "") for seed, loss in enumerate(results)]
    return Trial(1, values, trainings, pruned)


def test_the_sampler_gives_up_what_falls_behind_the_median() -> None:
    sampler = Sampler({"optim.muon_lr": Range(0.001, 0.1)}, trials=8, seed=0)
    for loss in (4.0, 5.0, 6.0, 7.0, 8.0):
        values = sampler.propose()
        assert not sampler.should_prune([loss]), "the first five are trained to their end"
        sampler.report(trial_with(values, [loss, loss]))
    values = sampler.propose()
    assert sampler.should_prune([6.1])
    sampler.report(trial_with(values, [6.1], pruned=True))
    sampler.propose()
    assert not sampler.should_prune([5.9])


def test_the_sampler_draws_where_trials_were_good() -> None:
    sampler = Sampler({"optim.muon_lr": Range(0.0, 1.0)}, trials=40, seed=0)
    drawn = []
    for _ in range(40):
        values = sampler.propose()
        drawn.append(values["optim.muon_lr"])
        sampler.report(trial_with(values, [abs(drawn[-1] - 0.3)]))
    near = [abs(value - 0.3) < 0.1 for value in drawn]
    assert sum(near[20:]) > 2 * sum(near[:10])


def test_pruned_and_diverged_trials_come_after_complete_ones() -> None:
    complete, pruned = trial_with({}, [5.0, 5.2]), trial_with({}, [4.0], pruned=True)
    diverged = replace(
        complete, trainings=[complete.trainings[0], replace(complete.trainings[1], loss=None)]
    )
    assert best_first([diverged, pruned, complete]) == [complete, pruned, diverged]
    assert pruned.spread is None


@pytest.mark.parametrize(
    ("given", "low", "high", "log"),
    [
        ("0.005..0.05", 0.005, 0.05, True),
        ("0.005..0.049", 0.005, 0.049, False),
        ("0..1", 0.0, 1.0, False),
        ("1e-4 .. 1e-3", 1e-4, 1e-3, True),
    ],
)
def test_a_range_over_a_factor_of_ten_is_by_logarithm(
    given: str, low: float, high: float, log: bool
) -> None:
    choices = make_space(load_recipe("lumiere-tiny"), {"optim.weight_decay": given})
    (found,) = choices.values()
    assert found == Range(low, high)
    assert isinstance(found, Range)
    assert found.log is log


def test_values_get_the_types_of_the_recipe() -> None:
    vary = {
        "train.batch_size": "16,32",
        "train.early_stopping_patience": "2,None",
        "train.compile": "on,off",
        "optim.muon_lr": ["1e-3", 1],
        "train.gradient_accumulation_steps": "1..20",
    }
    assert make_space(load_recipe("lumiere-tiny"), vary) == {
        "train.batch_size": [16, 32],
        "train.early_stopping_patience": [2, None],
        "train.compile": ["on", "off"],
        "optim.muon_lr": [0.001, 1.0],
        "train.gradient_accumulation_steps": Range(1, 20),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vary": {}}, "give a key to vary"),
        (
            {"vary": {"optim.muonlr": "0.1"}},
            r"unknown key optim.muonlr \(did you mean optim.muon_lr",
        ),
        ({"vary": {"optim": "0.1"}}, "unknown key optim"),
        ({"vary": {"train.steps.more": "1"}}, "unknown key train.steps.more"),
        ({"vary": {"optim.muon_lr": "0.1,fast"}}, "optim.muon_lr = 'fast' is wrong"),
        ({"vary": {"optim.muon_lr": "0.1,-1"}}, "greater than 0"),
        ({"vary": {"optim.muon_lr": "0.1,,0.2"}}, "an empty value"),
        ({"vary": {"optim.muon_lr": []}}, "needs a value"),
        ({"vary": {"optim.muon_lr": "0.1,0.10"}}, "the value 0.1 twice"),
        ({"vary": {"seed": "1,2"}}, "--seeds"),
        ({"vary": {"data": "a,b"}}, "changes the validation loss itself"),
        ({"vary": {"tokenizer.vocab_size": "512,600"}}, "changes the validation loss"),
        ({"vary": {"model.num_attention_heads": "2,5"}}, "must be a multiple of"),
        ({"vary": {"model.max_position_embeddings": "32,900000"}}, "one window needs 900,001"),
        ({"vary": {"device": "cpu,tpu"}}, "device = 'tpu' is wrong"),
        ({"vary": RATES, "seeds": 0}, "at least one seed"),
        ({"vary": RATES, "seed": 2**31 - 1}, "seed = 2147483649 is wrong"),
        ({"vary": RATES, "trials": 0}, "at least one trial, not 0"),
        ({"vary": {"optim.muon_lr": "0.01..0.1"}}, "--trials 20"),
        ({"vary": {"optim.muon_lr": "0.1..0.01"}, "trials": 2}, "the lower end first"),
        ({"vary": {"optim.muon_lr": "0.1..-1"}, "trials": 2}, "greater than 0"),
        ({"vary": {"optim.muon_lr": "0.1..inf"}, "trials": 2}, "it must be finite"),
        ({"vary": {"optim.name": "adamw..muon"}, "trials": 2}, "its values are not numbers"),
        ({"vary": {"model.hidden_size": "32..64"}, "trials": 2}, "not every integer fits a model"),
        ({"vary": {"distill.steps": "5,6"}, "budget": "1m"}, "the budget sets it"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    settings: dict[str, Any], message: str, text_folder: Path, own_runs: Path
) -> None:
    with pytest.raises(UserError, match=message):
        small_sweep(text_folder, **settings)
    assert not own_runs.exists()


def test_a_device_that_is_not_here(text_folder: Path, own_runs: Path) -> None:
    import torch

    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match="is not available here"):
        small_sweep(text_folder, vary={"device": ["cpu", missing]})
    assert not own_runs.exists()


def test_init_from_brings_the_architecture(trained: Path, own_runs: Path) -> None:
    recipe = with_overrides(load_recipe("lumiere-tiny"), {"init_from": str(trained)})
    with pytest.raises(UserError, match="init_from determines the architecture"):
        sweep(recipe, vary={"model.hidden_size": "32,64"})


def test_optuna_is_an_extra(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'lumenspark\[sweep\]'"):
        small_sweep(text_folder, vary=RATES, trials=2)


def test_a_grid_needs_no_optuna(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert len(small_sweep(text_folder, vary=RATES, seeds=1, train__steps=2)) == 2


def test_two_processes_do_not_share_a_sweep(text_folder: Path, own_runs: Path) -> None:
    small_sweep(text_folder, vary=RATES, seeds=1, train__steps=2)
    with (
        FileLock(only_sweep(own_runs) / ".lock"),
        pytest.raises(UserError, match="another process runs the sweep"),
    ):
        small_sweep(text_folder, vary=RATES, seeds=1, train__steps=2)


@pytest.mark.parametrize("bad", ["{no", "[]", '{"number": 1}', "\0" * 9])
def test_results_with_a_line_that_cannot_be_read_lose_no_other_trial(
    text_folder: Path, own_runs: Path, bad: str
) -> None:
    before = small_sweep(text_folder, vary=RATES, seeds=1, train__steps=2)
    results = only_sweep(own_runs) / "results.jsonl"
    whole = results.read_text().splitlines()
    results.write_text("\n".join([bad, *whole[1:]]) + "\n")
    again = small_sweep(text_folder, vary=RATES, seeds=1, train__steps=2)
    assert [trial.mean for trial in again] == [trial.mean for trial in before]
    assert (results.parent / "damaged-results.jsonl").read_text().startswith(bad)
    assert results.read_text().splitlines()[1:] == whole[1:], "these are not trained again"
    assert len(results.read_text().splitlines()) == len(whole)


def test_runs_that_cannot_be_written(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(UserError, match="choose another folder with LUMENSPARK_RUNS"):
        small_sweep(text_folder, vary=RATES)


@pytest.mark.slow
def test_a_budget_is_measured_once_for_steps_of_one_cost(text_folder: Path, own_runs: Path) -> None:
    vary = {"train.batch_size": [2, 16], **RATES}
    trials = small_sweep(text_folder, vary=vary, seeds=1, budget="5s", train__validate_every=1000)
    recipes = [Run(Path(trial.trainings[0].run)).recipe() for trial in trials]
    steps = {
        size: {r.train.steps for r in recipes if r.train.batch_size == size} for size in (2, 16)
    }
    assert len(steps[2]) == len(steps[16]) == 1
    assert steps[2] != steps[16]
    assert {recipe.budget for recipe in recipes} == {"5s"}
