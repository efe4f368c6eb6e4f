"""Measure a track on this machine, from a cold start with empty caches."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from lumenspark.data.corpora import Corpus
from lumenspark.errors import UserError
from lumenspark.evaluation.results import read_evaluations
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.records.store import Trial
from lumenspark.resolve import open_recipe_corpus
from lumenspark.runs.checkpoint import MARKER
from lumenspark.runs.metrics import read_metrics
from lumenspark.runs.run import Run, runs_folder

STEADY_STEPS = 100_000  # enough for compile: auto to compile; only a few are run


def measure(track: str, recipe: str, data: str, seed: int) -> Trial:
    """Measure a track with one seed. Raises UserError if it cannot run."""
    return measure_speed(recipe, data, seed) if track == "speed" else train_cold(recipe, data, seed)


def open_text(track: str, recipe: str, data: str) -> Corpus:
    """The corpus of ``recipe``, downloaded if it is on the hub.

    Raises UserError for a missing corpus, or a missing test split if the track needs one.
    """
    corpus = open_recipe_corpus(with_overrides(load_recipe(recipe), {"data": data}), print)
    if track != "speed" and "test" not in corpus.splits():
        raise UserError(f"{data} has no test split, which this track needs")
    next(iter(corpus.pieces("train")))  # downloads before timing
    return corpus


def train_cold(recipe: str, data: str, seed: int) -> Trial:
    """Run ``lumenspark train`` in a subprocess and measure wall time from its start.

    ``seconds_to_checkpoint``: until the evaluated checkpoint was saved; ``seconds``: until the
    process ended. Token cache and compiled code are rebuilt. The run is moved to the runs folder.
    """
    arguments = ["train", recipe, "--data", data, "--seed", str(seed)]
    with tempfile.TemporaryDirectory(prefix="lumenspark-record-") as temporary:
        folders = cold_folders(Path(temporary))
        started = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "lumenspark", *arguments],
            env=os.environ | folders,
            check=False,
        )
        seconds = time.time() - started
        if done.returncode:
            raise UserError(
                f"lumenspark train {recipe} failed with exit code {done.returncode}: see "
                "its message above"
            )
        (evaluation,) = Path(folders["LUMENSPARK_RUNS"]).glob("*/evaluation.json")
        run = Run(evaluation.parent)
        saved = (run.checkpoint("best") / MARKER).stat().st_mtime
        run = _keep(run)
    return Trial(
        seed=seed,
        figures={
            "seconds_to_checkpoint": round(saved - started, 3),
            "seconds": round(seconds, 3),
            "test_loss": _figure(run, "card", "loss"),
            "bits_per_byte": _figure(run, "strided", "bits_per_byte"),
        },
        recipe=asdict(run.recipe()),
        environment=run.environment(),
        metrics=read_metrics(run.metrics_file).lines,  # including events
        run=run.path,
    )


def cold_folders(folder: Path) -> dict[str, str]:
    """Environment variables for a process with empty caches and its own runs folder.

    TMPDIR is included because torch stores precompiled headers there.
    """
    places = {
        "LUMENSPARK_CACHE": folder / "cache",
        "LUMENSPARK_RUNS": folder / "runs",
        "TORCHINDUCTOR_CACHE_DIR": folder / "compiled",
        "TRITON_CACHE_DIR": folder / "triton",
        "TMPDIR": folder / "temporary",
    }
    for place in places.values():
        place.mkdir()
    return {name: str(place) for name, place in places.items()}


def measure_speed(recipe: str, data: str, seed: int) -> Trial:
    """Throughput of ``recipe`` in steady state, in this process; caches may be warm."""
    from lumenspark.pipeline import environment_of
    from lumenspark.reporter import Reporter
    from lumenspark.training.mfu import measure_throughput
    from lumenspark.training.setup import set_up
    from lumenspark.training.trainer import Trainer

    steady = {"data": data, "seed": seed, "train.steps": STEADY_STEPS, "inspect.every": 0}
    reporter = Reporter()
    setup = set_up(with_overrides(load_recipe(recipe), steady), reporter)
    speed = measure_throughput(Trainer(setup, reporter))
    return Trial(
        seed=seed,
        figures={
            "tokens_per_second": speed.tokens_per_second,
            "mfu": speed.mfu,
            "peak_gflops": speed.peak / 1e9,
            "mflops_per_token": speed.flops_per_token / 1e6,
        },
        recipe=asdict(setup.recipe),
        environment=environment_of(setup),
        metrics=[],
    )


def _keep(run: Run) -> Run:
    """Move a run from a temporary folder to the runs folder."""
    runs_folder().mkdir(parents=True, exist_ok=True)
    kept = Run(runs_folder() / run.id)
    shutil.move(run.path, kept.path)
    return kept


def _figure(run: Run, protocol: str, name: str) -> float:
    (entry,) = (
        entry
        for entry in read_evaluations(run.path)
        if (entry["protocol"], entry["split"]) == (protocol, "test")
    )
    return float(entry[name])
