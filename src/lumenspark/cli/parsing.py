"""Parse command lines into dataclasses and recipes."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import tyro

from lumenspark.recipe import Recipe, load_recipe, recipe_from, recipe_names
from lumenspark.training.scaling import check_starts_afresh, scaled

T = TypeVar("T")

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""Positional argument: a model."""

RunName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""Positional argument: a run."""


def default(text: str) -> Any:
    """Annotation of an optional argument: the default to show in the help in place of None."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


def parse(
    kind: Callable[..., T],
    command: str,
    arguments: list[str],
    about: str | None = None,
    allow_none: bool = False,
) -> T:
    """``arguments`` as a ``kind``. Help and usage errors (exit code 2) are printed here.

    ``allow_none``: optional arguments accept the word None.
    """
    config = [tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands]
    return tyro.cli(
        kind,
        prog=f"lumenspark {command}",
        description=about,
        args=arguments,
        config=config if allow_none else [*config, tyro.conf.DisallowNone],
    )


def parse_recipe(command: str, about: str, arguments: list[str]) -> Recipe:
    """``[RECIPE] [--size 3m] [--key value …]``; RECIPE defaults to ``lumiere-1m``.

    ``--size`` applies first, so that given keys override the values that follow from it.

    Raises UserError for an unknown recipe and for invalid values.
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
        f"{about}\n\nRECIPE: {presets}, or a .yaml file (default: lumiere-1m).\n\n"
        "--size 3m (10m, 30m, or any parameter count from 300k to 100m) scales a recipe of "
        "lumiere-1m: width, depth, context and batch size follow from it."
    )
    content = asdict(parse(gather, f"{command} [RECIPE]", arguments, about, allow_none=True))
    if _given("train.steps", arguments) and not _given("budget", arguments):
        content["budget"] = None  # given steps override the preset's budget
    recipe = recipe_from(content, source="command line")
    if size is not None:
        check_starts_afresh(recipe)
    return recipe


def _take_size(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of ``--size``, which is not a recipe key, and the other arguments."""
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
