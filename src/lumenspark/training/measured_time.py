"""Training times measured on this machine, kept in the cache folder between calls."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from lumenspark.data.cache_folder import cache_folder, writing_below
from lumenspark.files import write_json
from lumenspark.recipe import Recipe, dump_recipe
from lumenspark.runs.environment import cpu_name
from lumenspark.runs.run import now


@dataclass(frozen=True)
class MeasuredTime:
    """Seconds of a training, and the date of the measurement (ISO 8601)."""

    seconds: float
    date: str


def measure_time(recipe: Recipe) -> MeasuredTime:
    """Time ``recipe`` here (:func:`.estimate.quick_estimate`), and keep the result."""
    from lumenspark.training.estimate import quick_estimate

    measured = MeasuredTime(quick_estimate(recipe), now()[:10])
    file = _file(recipe)
    with writing_below(file.parent):
        write_json(file, asdict(measured))
    return measured


def kept_time(recipe: Recipe) -> MeasuredTime | None:
    """The result of an earlier :func:`measure_time`; None without one, and for a damaged file."""
    with suppress(OSError, ValueError, TypeError):
        measured = MeasuredTime(**json.loads(_file(recipe).read_text(encoding="utf-8")))
        if isinstance(measured.seconds, float) and isinstance(measured.date, str):
            return measured
    return None


def _file(recipe: Recipe) -> Path:
    """A name for what determines the time: the recipe, and the machine as seen without torch."""
    gpus = Path("/proc/driver/nvidia/gpus")
    facts = {
        "recipe": dump_recipe(recipe),
        "torch": version("torch"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": sorted(path.name for path in gpus.glob("*")),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    digest = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "times" / f"{digest[:16]}.json"
