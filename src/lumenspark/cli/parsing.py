"""Parse command lines into dataclasses and recipes."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import tyro

from lumenspark.recipe import Recipe, load_recipe, recipe_from
from lumenspark.training.scaling import check_starts_afresh, scaled

T = TypeVar("T")

# Lines that begin with a letter are joined to paragraphs, without regard to the terminal's width.
COMMON = """RECIPE: a preset (lumenspark recipes lists them), or a .yaml file
--data my-folder    text file, folder, hub dataset, tales, python-docs,
                    wikitext-2, or auto: wikitext-2 if at hand, else tales
--budget 20m        time for set-up and training; sets the number of steps
--train.steps 500   number of optimizer steps, in place of a budget
--size 3m           scale lumiere-1m to 300k … 100m parameters: width, depth,
                    context and batch size follow from it
--seed 1            initial weights, order of the text, dropout, samples
--device cpu        cpu, cuda or mps; by default the fastest one available
--init-from MODEL   weights to start from: a run, a folder or a hub id"""

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""Positional argument: a model."""

RunName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""Positional argument: a run."""


def default(text: str) -> Any:
    """Annotation of an optional argument: the default to show in the help instead of None."""
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


def parse_recipe(command: str, about: str, arguments: list[str], examples: str = "") -> Recipe:
    """``[RECIPE] [--size 3m] [--key value …]``; RECIPE defaults to ``lumiere-1m``.

    The help has ``about``, the common options, the ``examples``, and all keys of the recipe.
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

    about = f"{about}\n\n{COMMON}"
    if examples:
        about += f"\n\nExamples:\n{examples}"
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
