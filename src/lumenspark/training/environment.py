"""environment.json: what a run was made with."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lumenspark.data.corpora import Corpus
from lumenspark.data.tokens import PreparedTokens

from .recipe import Recipe
from .run import now


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
        "tokens_digest": tokens.digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


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
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
