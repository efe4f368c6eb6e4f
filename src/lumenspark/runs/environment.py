"""environment.json: what a run was made with."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lumenspark.data.corpora import Corpus
from lumenspark.data.tokens import PreparedTokens
from lumenspark.errors import UserError
from lumenspark.files import set_aside, write_json
from lumenspark.recipe import Recipe
from lumenspark.runs.run import Run, now

WAIT_FOR_GIT = 10.0  # seconds


def describe_environment(
    recipe: Recipe, corpus: Corpus, tokens: PreparedTokens, model: Any
) -> dict[str, Any]:
    """Versions, machine, thread count, git commit, command line, seed, and the corpus."""
    packages = ("lumenspark", "torch", "transformers", "tokenizers", "numpy")
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(recipe.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "command": command_line(),
        "seed": recipe.seed,
        "started_at": now(),
        "corpus": {
            "name": corpus.name,
            "digest": corpus.digest(),
            "layout": corpus.layout,
            "hub_id": corpus.hub_id,
            "revision": corpus.revision,
            "license": corpus.license,
            "language": corpus.language,
            "tokens": {name: len(split.ids) for name, split in tokens.splits.items()},
            "documents": {name: len(split.offsets) - 1 for name, split in tokens.splits.items()},
        },
        "init_from": recipe.init_from,  # a model of the hub with its commit, as is the tokenizer
        "tokenizer": recipe.tokenizer.name,
        "tokens_digest": tokens.digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def mend_environment(run: Run, here: Mapping[str, Any]) -> str | None:
    """Write a run's environment.json again where it is missing or damaged, or lacks something.

    ``here``: what it would be if the run began now. Returns a sentence on what was wrong.
    """
    file = run.path / "environment.json"
    is_there = os.path.lexists(file)
    problem = f"{file} is damaged" if is_there else f"{file} is missing"
    try:
        found = run.environment()
    except UserError:
        found = {}
    mended = _mended(found, here)
    if mended == found:
        return None
    only_lacks = found != {} and mended | found == mended  # what earlier versions did not note
    if is_there and not only_lacks:
        problem += f", kept as {set_aside(file).name}"
    write_json(file, mended)
    return None if only_lacks else f"{problem}: it is written again, as things are now"


def _mended(found: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """``found``, with ``here``'s value for each key that it lacks or that has another type."""
    mended = dict(found)
    for key, value in here.items():
        old = found.get(key)
        if key not in found or not (None in (old, value) or type(old) is type(value)):
            mended[key] = value
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            mended[key] = _mended(old, value)
    return mended


def processor_name(device: str) -> str:
    """What trains, as the system calls it: the graphics card or the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command_line() -> str:
    """What was typed, without the folder that the program lies in."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def git_commit() -> str | None:
    """The commit of the checkout that this package is run from; None for an installed one."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installation may lie inside somebody else's repository, which does not track it.
        for command in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, check=True, timeout=WAIT_FOR_GIT
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
