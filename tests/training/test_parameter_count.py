"""The parameter count of a recipe is that of its model."""

from typing import Any

import pytest

from lumenspark.recipe import Recipe, load_recipe, recipe_names, with_overrides
from lumenspark.training.model_factory import NO_TOKENS, model_of
from lumenspark.training.parameter_count import parameters_of

LUMENSPARK = {"model.family": "lumenspark", "model.embed_dim": 64, "model.heads": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "lumiere": {"model.hidden_size": 96, "model.num_hidden_layers": 3, "model.dropout": 0.0},
    "other gated width": {"model.intermediate_size": 100},
    "low rank": LUMENSPARK | {"model.rank": 8, "model.depth": 2},
    "dense layers": LUMENSPARK | {"model.rank": None, "model.depth": 2},
    "dense attention": LUMENSPARK | {"model.rank": 8, "model.k": None},
    "window alone": LUMENSPARK | {"model.rank": 8, "model.k": 0},
    "by position": LUMENSPARK | {"model.rank": 8, "model.projection": "position"},
}


def counted(recipe: Recipe) -> int:
    model = model_of(recipe, vocab_size=recipe.tokenizer.vocab_size, **NO_TOKENS)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    changes = SHAPES[shape]
    family = "lumenspark-1m" if "model.family" in changes else "lumiere-1m"
    recipe = with_overrides(load_recipe(family), changes)
    assert parameters_of(recipe) == counted(recipe)


@pytest.mark.parametrize("name", recipe_names())
def test_presets(name: str) -> None:
    assert parameters_of(load_recipe(name)) == counted(load_recipe(name))
