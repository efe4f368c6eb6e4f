"""lumenspark recipes: the built-in recipes with size and training time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumenspark.cli.parsing import parse

if TYPE_CHECKING:
    from lumenspark.recipe import Recipe
    from lumenspark.training.measured_time import MeasuredTime


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
    from lumenspark.training.measured_time import kept_time, measure_time
    from lumenspark.training.parameter_count import parameters_of

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("recipe", "data", "parameters", "context", "time"):
        numbers = name in {"parameters", "context"}
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    dates = set()
    for name in recipe_names():
        recipe = load_recipe(name)
        measured = None
        if not recipe.budget:
            measured = measure_time(recipe) if options.measure else kept_time(recipe)
        if measured is not None:
            dates.add(measured.date)
        parameters, context = f"{parameters_of(recipe):,}", str(recipe.model.context)
        table.add_row(name, recipe.data, parameters, context, _time(recipe, measured))
    Console(highlight=False).print(table)
    if dates:
        print(f"minutes: measured here on {', '.join(sorted(dates))}; --measure measures again")
    else:
        print("--measure measures the time of a number of steps here, and keeps it")
    print("lumenspark train RECIPE --dry-run measures one recipe on its text")


def _time(recipe: "Recipe", measured: "MeasuredTime | None") -> str:
    """The budget, or the steps and the time that was measured for them here."""
    if recipe.budget:
        return f"{recipe.budget} (its budget)"
    steps = f"{recipe.train.steps:,} steps"
    return steps if measured is None else f"{steps}, {measured.seconds / 60:.1f} min"
