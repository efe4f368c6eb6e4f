"""A budget reads a text as often as that helps, and not more."""

import time
from pathlib import Path

import pytest
from small_training import Collected, small

from lumenspark.cli import run as command
from lumenspark.recipe import Recipe, with_overrides
from lumenspark.training.budget import fit_budget
from lumenspark.training.epochs import most_epochs, most_steps
from lumenspark.training.setup import Setup, set_up


def fitted(text_folder: Path, **more: object) -> tuple[Setup, list[str]]:
    reporter = Collected()
    setup = set_up(small(text_folder, train__compile="off", **more), reporter)
    return fit_budget(setup, time.monotonic(), reporter), reporter.sentences


def epochs_of(setup: Setup) -> float:
    steps = setup.recipe.train.steps
    return steps * setup.recipe.tokens_per_step / len(setup.tokens.splits["train"].ids)


@pytest.mark.parametrize("seconds", [0.001, 0.002], ids=["two threads", "one thread"])
@pytest.mark.parametrize("budget", ["5m", "20m", "10h"])
def test_a_longer_budget_or_a_faster_machine_takes_no_more_steps_than_help(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch, budget: str, seconds: float
) -> None:
    monkeypatch.setattr("lumenspark.training.budget.seconds_per_step", lambda trainer: seconds)
    setup, sentences = fitted(text_folder, budget=budget)
    tokens = len(setup.tokens.splits["train"].ids)
    parameters = sum(parameter.numel() for parameter in setup.model.parameters())
    limit = most_epochs(setup.recipe, tokens, parameters)
    assert limit is not None
    assert limit - 0.5 < epochs_of(setup) <= limit  # whole steps
    [sentence] = [each for each in sentences if each.startswith("the text is read")]
    assert f"read {epochs_of(setup):.1f} times, in " in sentence
    assert sentence.endswith("more would overfit (train.max_epochs)")


def test_the_limit_is_a_key_of_the_recipe(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.training.budget.seconds_per_step", lambda trainer: 0.001)
    setup, _ = fitted(text_folder, budget="5m", train__max_epochs=2)
    assert 1.5 < epochs_of(setup) <= 2
    setup, sentences = fitted(text_folder, budget="5m", train__max_epochs=None)
    assert epochs_of(setup) > 20
    assert not any("overfit" in sentence for sentence in sentences)


def test_steps_that_were_asked_for_are_taken(text_folder: Path) -> None:
    setup, sentences = fitted(text_folder, train__steps=5000)
    assert setup.recipe.train.steps == 5000
    assert not any("overfit" in sentence for sentence in sentences)


def test_teachers_are_limited_too(text_folder: Path) -> None:
    setup, _ = fitted(text_folder, budget="20m", distill__teachers=2, train__max_epochs=2)
    tokens = len(setup.tokens.splits["train"].ids)
    assert setup.recipe.distill.steps == most_steps(setup.recipe, tokens, 1)


def test_more_text_and_smaller_models_allow_more_epochs() -> None:
    recipe = Recipe()
    limits = [most_epochs(recipe, tokens, 1_000_000) or 0 for tokens in (10**5, 10**6, 10**7)]
    assert limits == sorted(limits)
    assert limits[0] < limits[-1]
    larger = most_epochs(recipe, 10**7, 3_000_000)
    assert larger is not None
    assert larger < limits[-1]


@pytest.mark.parametrize("wrong", ["0", "-1"])
def test_a_limit_that_is_none(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["train", "lumiere-tiny", "--train.max-epochs", wrong, "--dry-run"]) == 2


def test_a_recipe_takes_the_limit_as_a_number_auto_or_null() -> None:
    for value in (3, 2.5, "auto", None):
        assert with_overrides(Recipe(), {"train.max_epochs": value}).train.max_epochs == value
