"""lumenspark recipes: the built-in recipes with size and training time."""

from lumenspark.cli.parsing import parse


def main(arguments: list[str]) -> None:
    parse(_show, "recipes", arguments)


def _show() -> None:
    """List the built-in recipes with parameter count and estimated training time here."""
    from rich.console import Console
    from rich.table import Table

    from lumenspark.recipe import load_recipe, recipe_names
    from lumenspark.training.estimate import quick_estimate

    table = Table(box=None, header_style="bold")
    for name in ("recipe", "data", "parameters", "context", "time here"):
        table.add_column(name, justify="left" if name in {"recipe", "data"} else "right")
    for name in recipe_names():
        recipe = load_recipe(name)
        parameters, seconds = quick_estimate(recipe)
        table.add_row(
            name,
            recipe.data,
            f"{parameters:,}",
            str(recipe.model.context),
            f"{seconds / 60:.1f} min" + (" (its budget)" if recipe.budget else ""),
        )
    Console(highlight=False).print(table)
    print("lumenspark train RECIPE --dry-run measures the time of one")
