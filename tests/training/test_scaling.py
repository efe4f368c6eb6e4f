"""Sizes: the shape that follows from a number of parameters, and what stays as it was."""

from dataclasses import replace

import pytest

from lumenspark.errors import UserError
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.training.scaling import nearest_shape, parameter_count, parse_size, scaled

LUMIERE = load_recipe("lumiere-1m")


@pytest.mark.parametrize("size", ["1m", "1M", " 1000k "])
def test_at_one_million_only_the_name_may_change(size: str) -> None:
    assert replace(scaled(LUMIERE, size), name=LUMIERE.name) == LUMIERE
    assert scaled(LUMIERE, "1m").name == "lumiere-1m"


@pytest.mark.parametrize("size", ["300k", "500k", "1m", "2m", "3m", "4.5m"])
def test_the_count_is_the_models(size: str) -> None:
    model = scaled(LUMIERE, size).model
    config = LumiereConfig(
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        intermediate_size=model.intermediate_size,
        max_position_embeddings=model.max_position_embeddings,
    )
    count = sum(parameter.numel() for parameter in LumiereForCausalLM(config).parameters())
    assert count == parameter_count(model.hidden_size, model.num_hidden_layers, model.context)


@pytest.mark.parametrize("size", ["3m", "10m", "30m", "100m"])
def test_the_named_sizes_are_met(size: str) -> None:
    model = scaled(LUMIERE, size).model
    count = parameter_count(model.hidden_size, model.num_hidden_layers, model.context)
    assert count == pytest.approx(parse_size(size), rel=0.05)


def test_every_size_is_met_as_nearly_as_the_docstring_says() -> None:
    parameters = 900_000.0
    while parameters < 100_000_000:
        found = parameter_count(*nearest_shape(parameters, 64), 64)
        assert 1 / 1.22 < found / parameters < 1.22
        parameters *= 1.01


def test_larger_sizes_are_larger_in_everything() -> None:
    recipes = [scaled(LUMIERE, size) for size in ("300k", "1m", "3m", "10m", "30m", "100m")]
    widths = [recipe.model.hidden_size for recipe in recipes]
    assert widths == sorted(set(widths))
    assert [recipe.model.context for recipe in recipes] == [64, 64, 128, 256, 512, 1024]
    steps = [recipe.tokens_per_step for recipe in recipes]
    assert steps == [4096, 4096, 4096, 8192, 8192, 16384]


@pytest.mark.parametrize("size", ["300k", "3m", "30m"])
def test_what_is_not_the_shape_stays(size: str) -> None:
    recipe = scaled(LUMIERE, size)
    for section in ("tokenizer", "corpus", "inspect", "data", "budget", "seed"):
        assert getattr(recipe, section) == getattr(LUMIERE, section)
    assert replace(recipe.optim, adamw_lr=LUMIERE.optim.adamw_lr) == LUMIERE.optim
    assert recipe.model.dropout == LUMIERE.model.dropout
    assert recipe.train.validation_windows * recipe.model.context == 1024 * 64


def test_four_times_the_width_is_a_rate_lower_by_the_root_of_two() -> None:
    recipe = scaled(LUMIERE, "20m")
    assert recipe.model.hidden_size == 4 * LUMIERE.model.hidden_size
    assert recipe.optim.adamw_lr == pytest.approx(LUMIERE.optim.adamw_lr / 2**0.5)


def test_the_recipe_that_is_given_is_not_changed() -> None:
    recipe = load_recipe("lumiere-1m")
    scaled(recipe, "3m")
    assert recipe == LUMIERE


def test_a_recipes_own_batch_is_scaled() -> None:
    recipe = with_overrides(
        LUMIERE, {"train": {"batch_size": 16, "gradient_accumulation_steps": 2}}
    )
    assert scaled(recipe, "3m").tokens_per_step == recipe.tokens_per_step
    assert scaled(recipe, "10m").tokens_per_step == 2 * recipe.tokens_per_step
    tiny = with_overrides(LUMIERE, {"train": {"batch_size": 1, "validation_windows": 1}})
    assert scaled(tiny, "30m").train.batch_size == 1
    assert scaled(tiny, "30m").train.validation_windows == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lumiere-1m", "lumiere-3m"),
        ("lumiere-1m-best", "lumiere-3m-best"),
        ("mine", "mine-3m"),
        ("run-11m", "run-11m-3m"),
    ],
)
def test_the_name_says_the_size(name: str, expected: str) -> None:
    assert scaled(replace(LUMIERE, name=name), "3M").name == expected


@pytest.mark.parametrize(
    "size", ["", "large", "3", "3g", "-3m", "3 m", "1e6k", "299k", "101m", "0m", "nanm", "3m\n5m"]
)
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(UserError, match="from 300k to 100m, such as 3m, not"):
        scaled(LUMIERE, size)


@pytest.mark.parametrize("name", ["lumenspark-1m", "lumenspark-base"])
def test_the_other_family_has_no_sizes(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} has the family lumenspark"):
        scaled(load_recipe(name), "3m")


def test_another_shape_has_no_sizes() -> None:
    with pytest.raises(UserError, match="lumiere-tiny has another"):
        scaled(load_recipe("lumiere-tiny"), "3m")
