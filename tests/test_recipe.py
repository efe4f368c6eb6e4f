"""Recipes: presets load, wrong keys are named, overrides reach their place."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from lumenspark.errors import UserError
from lumenspark.recipe import (
    Recipe,
    dump_recipe,
    load_recipe,
    parse_duration,
    recipe_from,
    recipe_names,
    with_overrides,
)
from lumenspark.runs.run import Run


def test_an_earlier_name_is_refused_with_the_current_one() -> None:
    with pytest.raises(
        UserError, match=r"unknown key optim.clip \(it is called max_grad_norm now\)"
    ):
        with_overrides(load_recipe("lumiere-tiny"), {"optim.clip": 1.0})


@pytest.mark.parametrize("name", recipe_names())
def test_every_preset_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from(yaml.safe_load(dump_recipe(recipe)), source=name) == recipe


def test_dumping_writes_every_default_out() -> None:
    assert yaml.safe_load(dump_recipe(Recipe())) == asdict(Recipe())


def test_a_recipe_file_is_read_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\noptim: {muon_lr: 1e-3}\n")
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.optim.muon_lr) == ("mine", 0.001)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optm: {muon_lr: 1}", ["optm", "did you mean optim?"]),
        ("optim: {muon_rl: 1}", ["optim.muon_rl", "did you mean muon_lr?"]),
        ("optim: {muon_lr: fast}", ["optim.muon_lr", "'fast'", "number"]),
        ("optim: {name: sgd}", ["optim.name", "'muon' or 'adamw'"]),
        ("train: {batch_size: 0}", ["train.batch_size", "greater than 0"]),
        ("tokenizer: {vocab_size: 100}", ["tokenizer.vocab_size", "259"]),
        ("train: 5", ["train", "5"]),
        ("budget: soon", ["a budget is a time such as 90s", "'soon'"]),
        ("seed: 4294967296", ["seed", "less than 2147483648"]),
        ("model: {max_position_embeddings: 8}", ["max_position_embeddings", "9"]),
        ("- a list", ["a recipe is a mapping"]),
        ("name: [", ["is not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(str(file))
    assert "\n" not in str(caught.value)
    for word in [*words, "wrong.yaml"]:
        assert word in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="is not UTF-8 text, at byte 6"):
        load_recipe(str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize("written", ["5", "'5'", "5.0"])
def test_a_budget_without_a_unit_is_refused(tmp_path: Path, written: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"budget: {written}")
    number = written.strip("'")
    with pytest.raises(UserError, match=f"of {number} what: write {number}s, {number}m or"):
        load_recipe(str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match="of 5 what: write 5s, 5m or 5h"):
        with_overrides(Recipe(), {"budget": "5"})


def test_a_run_with_a_budget_without_a_unit_still_reads(tmp_path: Path) -> None:
    """Earlier versions took it for seconds."""
    recipe = dump_recipe(Recipe(budget="300s")).replace("300s", "'300'")
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert Run(tmp_path).recipe().budget == "300s"


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean lumiere-1m\?"):
        load_recipe("lumiere-1")
    with pytest.raises(UserError, match="there is no recipe file"):
        load_recipe("nowhere.yaml")


def test_overrides_take_dotted_keys_and_sections() -> None:
    recipe = with_overrides(Recipe(), {"optim.muon_lr": 0.5, "train": {"batch_size": 3}})
    assert (recipe.optim.muon_lr, recipe.train.batch_size) == (0.5, 3)
    assert recipe.optim.adamw_lr == Recipe().optim.adamw_lr
    with pytest.raises(UserError, match=r"unknown key optim\.speed"):
        with_overrides(Recipe(), {"optim.speed": 1})


def test_naming_the_steps_drops_a_presets_budget() -> None:
    recipe = Recipe(budget="4m")
    assert with_overrides(recipe, {"train.steps": 7}).budget is None
    assert with_overrides(recipe, {"train": {"steps": 7}}).budget is None
    assert with_overrides(recipe, {"train.steps": 7, "budget": "1m"}).budget == "1m"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("300 s", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "0s", "5 days"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UserError, match="a budget is a time"):
        parse_duration(text)
