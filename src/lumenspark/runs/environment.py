"""environment.json: software, hardware and corpus of a run."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.errors import UserError
from lumenspark.files import set_aside, write_json
from lumenspark.recipe import Recipe
from lumenspark.runs.run import Run, now

if TYPE_CHECKING:
    from lumenspark.data.corpora import Corpus
    from lumenspark.data.tokens import PreparedTokens

WAIT_FOR_GIT = 10.0  # seconds


def describe_environment(
    recipe: Recipe, corpus: "Corpus", tokens: "PreparedTokens", model: Any
) -> dict[str, Any]:
    """Versions, machine, thread count, git commit, command line, seed, and the corpus."""
    import torch

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
        "init_from": recipe.init_from,  # hub models with commit, as for the tokenizer
        "tokenizer": recipe.tokenizer.name,
        "tokens_digest": tokens.digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def mend_environment(run: Run, here: Mapping[str, Any]) -> str | None:
    """Rewrite the environment.json of a run if it is missing, damaged or incomplete.

    ``here``: the current environment, for missing values. Returns a message on the problem.
    """
    file = run.path / "environment.json"
    exists = os.path.lexists(file)
    problem = f"{file} is damaged" if exists else f"{file} is missing"
    try:
        found = run.environment()
    except UserError:
        found = {}
    mended = _mended(found, here)
    if mended == found:
        return None
    only_lacks = (
        found != {} and mended | found == mended
    )  # keys that earlier versions did not record
    if exists and not only_lacks:
        problem += f", kept as {set_aside(file).name}"
    write_json(file, mended)
    return None if only_lacks else f"{problem}: rewritten with the current environment"


def _mended(found: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """``found``, with values of ``here`` for keys that are missing or of another type."""
    mended = dict(found)
    for key, value in here.items():
        old = found.get(key)
        if key not in found or not (None in (old, value) or type(old) is type(value)):
            mended[key] = value
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            mended[key] = _mended(old, value)
    return mended


def processor_name(device: str) -> str:
    """The name of the GPU or CPU that trains."""
    if device != "cuda":
        return cpu_name()
    import torch

    return torch.cuda.get_device_name()


def cpu_name() -> str:
    """The name of the CPU, as the system says it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command_line() -> str:
    """The command line, without the path of the program."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def git_commit() -> str | None:
    """The git commit of this checkout; None for an installed package."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installation may be inside another repository, which does not track it.
        for command in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, check=True, timeout=WAIT_FOR_GIT
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
