"""From the words of a command line to typed values."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import tyro

from lumenspark.recipe import Recipe, load_recipe, recipe_from, recipe_names
from lumenspark.training.scaling import check_starts_afresh, scaled

T = TypeVar("T")

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""A positional argument that names a model."""

RunName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""A positional argument that names a run."""


def parse(kind: Callable[..., T], verb: str, arguments: list[str], about: str | None = None) -> T:
    """``arguments`` as a ``kind``. Prints help, or what is wrong (exit code 2), by itself."""
    return tyro.cli(
        kind,
        prog=f"lumenspark {verb}",
        description=about,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
    )


def parse_recipe(verb: str, about: str, arguments: list[str]) -> Recipe:
    """``[RECIPE] [--size 3m] [--key value …]``; the recipe is ``lumiere-1m`` unless it is named.

    The size comes first, so that a key which is given wins over what follows from the size.

    Raises UserError for a recipe that is not there and for values that cannot be.
    """
    size, arguments = _take_size(arguments)
    name = "lumiere-1m"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    loaded = load_recipe(name)
    if size is not None:
        loaded = scaled(loaded, size)

    def gather(recipe: Annotated[Recipe, tyro.conf.arg(name="")] = loaded) -> Recipe:
        return recipe

    presets = ", ".join(recipe_names())
    about = (
        f"{about}\n\nRECIPE is {presets}, or a .yaml file; lumiere-1m unless given.\n\n"
        "--size 3m (or 10m, 30m, any number of parameters from 300k to 100m) scales a recipe for "
        "lumiere-1m: width, depth, context and batch follow by rules."
    )
    content = asdict(parse(gather, f"{verb} [RECIPE]", arguments, about))
    if _given("train.steps", arguments) and not _given("budget", arguments):
        content["budget"] = None  # who names the steps does not want the preset's time
    recipe = recipe_from(content, source="command line")
    if size is not None:
        check_starts_afresh(recipe)
    return recipe


def _take_size(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of ``--size``, and the other arguments. It is no key of a recipe."""
    size, others = None, []
    words = iter(arguments)
    for word in words:
        if word == "--size":
            size = next(words, "")
        elif word.startswith("--size="):
            size = word.removeprefix("--size=")
        else:
            others.append(word)
    return size, others


def _given(key: str, arguments: list[str]) -> bool:
    return any(argument.split("=")[0] == f"--{key}" for argument in arguments)
