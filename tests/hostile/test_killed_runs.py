"""A hundred kills at random moments: every run goes on, and ends as one that was never killed.

The processes that are killed are forks of this one, which has loaded torch already.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL

from lumenspark import pipeline
from lumenspark.runs.checkpoint import verify_checkpoint
from lumenspark.runs.run import list_runs
from lumenspark.sweeps.runner import sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = {"plain": 66, "teachers": 24, "sweep": 10}
SETTINGS = SMALL | {
    "train.steps": 12,
    "train.log_every": 3,
    "train.ema_decay": 0.9,
    "model.dropout": 0.1,
    "model.hidden_size": 16,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 1,
    "tokenizer.vocab_size": 300,
}
TEACHERS = {"distill.teachers": 1, "distill.steps": 6, "distill.samples": 4}
RATES = {"optim.muon_lr": [0.01, 0.04]}
TIMINGS = {"seconds", "tokens_per_second"}
Work = Callable[[], object]


def in_a_fork(work: Work) -> int:
    """The id of a process that does ``work`` and says nothing."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        work()
        code = 0
    finally:
        os._exit(code)


def finishes(work: Work) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(in_a_fork(work), 0)[1]) == 0


def killed_after(work: Work, seconds: float) -> bool:
    """Whether the process was killed before it had finished."""
    child = in_a_fork(work)
    time.sleep(seconds)  # the moment of the kill; nothing is expected to have happened by then
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def begin(kind: str, text: Path) -> Work:
    settings: dict[str, Any] = SETTINGS | {"data": str(text)}
    if kind == "sweep":
        return lambda: sweep("lumiere-tiny", vary=RATES, seeds=1, **settings)
    more = TEACHERS if kind == "teachers" else {}
    return lambda: pipeline.train("lumiere-tiny", **settings | more)


def go_on(kind: str, text: Path) -> Work:
    """The command that a user would give: the sweep again; the run, where there is one yet."""
    if kind == "sweep" or not list_runs():
        return begin(kind, text)
    return lambda: pipeline.resume("latest")


def files(folder: Path) -> dict[str, Any]:
    """Everything of a runs folder that does not depend on the clock, by path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name.endswith(".lock"):
            continue
        if path.name == "metrics.jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            found[name] = [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]
        elif path.suffix in {".safetensors", ".yaml", ".py"} or path.name == "config.json":
            found[name] = path.read_bytes()
        elif path.name == "evaluation.json":
            found[name] = [e["loss"] for e in json.loads(path.read_text())["evaluations"]]
        else:
            found[name] = "is there"
    return found


def by_role(runs: Path) -> dict[str, Any]:
    """As :func:`files`, with the one run that is there, or the sweep, called the same always."""
    places = [*runs.glob("[!.]*"), *(runs / "sweeps").glob("[!.]*")]
    (root,) = (path for path in places if path.name != "sweeps")
    return files(root)


@pytest.mark.parametrize("kind", KILLS)
def test_killed_at_random_moments_it_ends_as_if_never_killed(
    kind: str, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "whole"))
    assert finishes(begin(kind, text_folder)), "also fills the cache"
    whole = by_role(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    began = time.monotonic()
    assert finishes(begin(kind, text_folder))
    length = time.monotonic() - began

    moments, kills, number = random.Random(kind), 0, 0
    while kills < KILLS[kind]:
        number += 1
        runs = tmp_path / f"killed-{number}"
        monkeypatch.setenv("LUMENSPARK_RUNS", str(runs))
        for _ in range(8):  # each goes on where the one before was killed
            kills += killed_after(go_on(kind, text_folder), moments.uniform(0.0, 0.8 * length))
        assert finishes(go_on(kind, text_folder))
        assert by_role(runs) == whole
        assert not [path for path in runs.rglob(".*") if not path.name.endswith("lock")]
        for marker in runs.rglob("complete.json"):
            assert verify_checkpoint(marker.parent) is None
        assert number < 5 * KILLS[kind], "the kills come too late"
        shutil.rmtree(runs)
