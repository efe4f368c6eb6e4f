"""Quality at context 1,024: low-rank attention against dense attention and against a window alone.

    python benchmarks/long_quality.py --data wikitext-2-raw

Trains `lumenspark-1m` and the same model with other attention, on the same tokens in the same
order with the same recipe, and evaluates each on every token of the test split (protocol strided,
context 1,024). The window alone is as long as makes its decode state equal to that of the slots and
the window together. What is compared is bits per byte; beside it the decode state at position
1,024, in bytes of float32, for all layers. Low-rank with slots and dense differ by the slots'
projection, 3% of the parameters.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import tyro

CONTEXT = 1024
CONTESTANTS: dict[str, dict[str, Any]] = {
    "dense": {"k": None},
    "low-rank, content": {"k": 64, "window": 64, "projection": "content"},
    "low-rank, position": {"k": 64, "window": 64, "projection": "position"},
    "window alone": {"k": 0, "window": 96},
}


@dataclass
class Options:
    """Train the same model with four kinds of attention, and compare."""

    data: str = "python-docs"
    steps: int = 2000
    """Of 4,096 tokens each."""
    threads: int = 1
    """Of each training."""
    at_once: int = 2
    """Trainings side by side."""
    seed: int = 0
    contestants: tuple[str, ...] = tuple(CONTESTANTS)
    only: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Train one contestant and print its figures as JSON."""


def state_bytes(model: dict[str, Any]) -> int:
    """Of all heads of all layers at position CONTEXT, float32."""
    layers, heads, size = 4, 4, 32
    numbers = 2 * size * CONTEXT
    if model["k"] is not None:
        numbers = model["k"] * (2 * size + 1) + 2 * model["window"] * 2 * size
    return 4 * layers * heads * numbers


def train_one(name: str, options: Options) -> None:
    import lumenspark

    run = lumenspark.train(
        "lumenspark-1m",
        data=options.data,
        seed=options.seed,
        model=CONTESTANTS[name],
        train={"steps": options.steps, "threads": options.threads},
    )
    evaluations = json.loads((run.path / "evaluation.json").read_text())["evaluations"]
    figures = {entry["protocol"]: entry for entry in evaluations}
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    speeds = sorted(line["tokens_per_second"] for line in lines if "tokens_per_second" in line)
    result = {
        "run": run.id,
        "parameters": run.environment()["parameters"],
        "loss": figures["card"]["loss"],
        "bits_per_byte": figures["strided"]["bits_per_byte"],
        "tokens_per_second": speeds[len(speeds) // 2],
    }
    print(json.dumps(result))


def measure(name: str, options: Options) -> dict[str, Any]:
    """One contestant, in a process of its own."""
    settings = [f"--{key}={getattr(options, key)}" for key in ("data", "steps", "threads", "seed")]
    command = [sys.executable, __file__, "--only", name, *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {json.dumps(result)}", flush=True)
    return result


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.only:
        train_one(options.only, options)
        return
    with ThreadPoolExecutor(options.at_once) as pool:
        figures = pool.map(partial(measure, options=options), options.contestants)
        results = dict(zip(options.contestants, figures, strict=True))
    dense = results.get("dense")
    print(
        f"\n{'attention':<20} {'parameters':>11} {'state':>11} {'of dense':>9} {'loss':>8} "
        f"{'bits/byte':>10} {'of dense':>9} {'tokens/s':>9}"
    )
    for name, result in results.items():
        state = state_bytes(CONTESTANTS[name])
        share = state / state_bytes(CONTESTANTS["dense"])
        against = f"{result['bits_per_byte'] / dense['bits_per_byte']:9.4f}" if dense else ""
        print(
            f"{name:<20} {result['parameters']:>11,} {state:>11,} {share:>9.1%} "
            f"{result['loss']:>8.4f} {result['bits_per_byte']:>10.4f} {against:>9} "
            f"{result['tokens_per_second']:>9,.0f}"
        )


if __name__ == "__main__":
    main()
