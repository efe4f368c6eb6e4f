"""lumenspark recipes: the built-in recipes with size and training time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumenspark.cli.parsing import parse

if TYPE_CHECKING:
    from lumenspark.recipe import Recipe


@dataclass
class Arguments:
    """List the built-in recipes with parameter count and training time."""

    measure: bool = False
    """Measure the time of recipes with a fixed number of steps here; it is kept for later calls."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "recipes", arguments)
    from rich.console import Console
    from rich.table import Table

    from lumenspark.recipe import load_recipe, recipe_names
    from lumenspark.training.parameter_count import parameters_of

    table = Table(box=None, header_style="bold")
    for name in ("recipe", "data", "parameters", "context", "time"):
        numbers = name in {"parameters", "context"}
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for name in recipe_names():
        recipe = load_recipe(name)
        parameters = f"{parameters_of(recipe):,}"
        time = _time(recipe, options.measure)
        table.add_row(name, recipe.data, parameters, str(recipe.model.context), time)
    Console(highlight=False).print(table)
    if not options.measure:
        print("--measure measures the time of recipes with a number of steps here, and keeps it")
    print("lumenspark train RECIPE --dry-run measures one recipe on its text")


def _time(recipe: "Recipe", measure: bool) -> str:
    """The budget, or the steps and the time that was measured for them here."""
    from lumenspark.training.measured_time import kept_time, measure_time

    if recipe.budget:
        return f"{recipe.budget} (its budget)"
    steps = f"{recipe.train.steps:,} steps"
    measured = measure_time(recipe) if measure else kept_time(recipe)
    if measured is None:
        return steps
    return f"{steps}: {measured.seconds / 60:.1f} min here, measured on {measured.date}"
