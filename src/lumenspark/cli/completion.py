"""lumenspark completion: a script that completes commands, options, presets and runs in a shell."""

import re
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import Annotated, Literal

import tyro

from lumenspark.cli import COMMANDS
from lumenspark.cli.parsing import parse
from lumenspark.recipe import recipe_names

SHELLS = ("bash", "zsh", "fish")
RECIPE_COMMANDS = ("train", "sweep", "prepare")
RUN_COMMANDS = ("generate", "inspect", "evaluate", "compress", "resume", "card", "push")

RUNS = """\
_lumenspark_runs() {
    (cd "${LUMENSPARK_RUNS:-runs}" 2>/dev/null && ls -d */recipe.yaml 2>/dev/null |
        sed 's|/recipe.yaml$||'; echo latest)
}
"""
BASH = """\
# In ~/.bashrc: source <(lumenspark completion bash)
RUNS_FUNCTION_lumenspark() {
    local word="${COMP_WORDS[COMP_CWORD]}" flags="" values="" words=""
    case "${COMP_WORDS[1]}" in
CASES
    esac
    case "$word" in
    -*) words="$flags" ;;
    *)
        [ "$COMP_CWORD" -eq 2 ] && words="$values"
        [ "$COMP_CWORD" -eq 1 ] && words="COMMANDS"
        ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _lumenspark lumenspark
"""
ZSH = """\
# In ~/.zshrc, after compinit: source <(lumenspark completion zsh)
RUNS_FUNCTION_lumenspark() {
    local -a flags values
    case "$words[2]" in
CASES
    esac
    if (( CURRENT == 2 )); then
        compadd -- COMMANDS
    elif [[ "$PREFIX" == -* ]]; then
        compadd -- ${=flags}
    else
        (( CURRENT == 3 )) && compadd -- ${=values}
        _files
    fi
}
compdef _lumenspark lumenspark
"""
FISH_RUNS = """\
# In ~/.config/fish/config.fish: lumenspark completion fish | source
function __lumenspark_runs
    set -l folder runs
    set -q LUMENSPARK_RUNS; and set folder $LUMENSPARK_RUNS
    for recipe in $folder/*/recipe.yaml
        basename (dirname $recipe)
    end
    echo latest
end
"""


@dataclass
class Arguments:
    """Print a script that completes commands, options, presets and run ids in a shell.

    $ source <(lumenspark completion bash)     in ~/.bashrc; zsh: in ~/.zshrc, after compinit
    $ lumenspark completion fish | source      in ~/.config/fish/config.fish
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """The shell that will read the script."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "completion", arguments)
    scripts = {"bash": BASH, "zsh": ZSH}
    shell = options.shell
    print(_fish() if shell == "fish" else _filled(scripts[shell]), end="")


def options_of(command: str) -> list[str]:
    """The options that the help of a command names."""
    module, printed = import_module(f"lumenspark.cli.{command}"), StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        module.main(["--help"])
    return sorted(set(re.findall(r"(?<![\w.-])--[a-z](?:[\w.-]*\w)?", printed.getvalue())))


def _values(command: str) -> list[str] | None:
    """Values of the first argument; None for run ids, which the shell lists."""
    if command in RUN_COMMANDS:
        return None
    if command in RECIPE_COMMANDS:
        return recipe_names()
    return list(SHELLS) if command == "completion" else []


def _cases() -> str:
    """A line for each command, in the syntax that bash and zsh share."""
    lines = []
    for command in COMMANDS:
        values = _values(command)
        words = "$(_lumenspark_runs)" if values is None else " ".join(values)
        options = " ".join(options_of(command))
        lines.append(f'    {command}) flags="{options}" values="{words}" ;;')
    return "\n".join(lines)


def _filled(script: str) -> str:
    """A script for bash or zsh with its functions, cases and commands."""
    for place, text in (
        ("RUNS_FUNCTION", RUNS),
        ("CASES", _cases()),
        ("COMMANDS", " ".join(COMMANDS)),
    ):
        script = script.replace(place, text)
    return script


def _fish() -> str:
    lines = [FISH_RUNS.rstrip()]
    for command, about in COMMANDS.items():
        start = "complete -c lumenspark -n"
        text = about.replace("'", "\\'")
        lines.append(f"{start} __fish_use_subcommand -f -a {command} -d '{text}'")
        condition = f"'__fish_seen_subcommand_from {command}'"
        values = _values(command)
        words = "(__lumenspark_runs)" if values is None else " ".join(values)
        if words:
            lines.append(f"{start} {condition} -a '{words}'")
        lines += [f"{start} {condition} -l {option[2:]}" for option in options_of(command)]
    return "\n".join(lines) + "\n"
