"""A recipe from the command line: a preset or a file, and any key overridden."""

from dataclasses import asdict
from typing import Annotated, NamedTuple

import tyro

from lumenspark.training.recipe import Recipe, load_recipe, recipe_from, recipe_names


class RecipeArguments(NamedTuple):
    recipe: Recipe
    dry_run: bool


def parse_recipe(verb: str, description: str, arguments: list[str]) -> RecipeArguments:
    """``[RECIPE] [--key value …]``; the recipe is ``lumiere-1m`` unless it is named.

    Raises UserError for a recipe that is not there and for values that cannot be.
    """
    name = "lumiere-1m"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    loaded = load_recipe(name)

    def parse(
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = loaded, *, dry_run: bool = False
    ) -> RecipeArguments:
        """
        Args:
            dry_run: measure, and print what the training would take; train nothing.
        """
        return RecipeArguments(recipe, dry_run)

    usage = f"{description}\n\n[RECIPE] is {', '.join(recipe_names())}, or a .yaml file."
    parsed = tyro.cli(parse, prog=f"lumenspark {verb} [RECIPE]", description=usage, args=arguments)
    content = asdict(parsed.recipe)
    if _given("train.steps", arguments) and not _given("budget", arguments):
        content["budget"] = None  # who names the steps does not want the preset's time
    return RecipeArguments(recipe_from(content, source="command line"), parsed.dry_run)


def _given(key: str, arguments: list[str]) -> bool:
    return any(argument.split("=")[0] == f"--{key}" for argument in arguments)
