"""The cost of inspection: none while nothing is traced, little for a trace.

    python benchmarks/trace_cost.py [--before FOLDER]

On a Lumiére-1M with random weights, medians over rounds:

- a trace of all attention patterns of one text of 64 tokens, in forward passes (bound: 3);
- a forward pass, a training step and generation after a trace and a patch have been removed,
  relative to a fresh model; with `--before`, also relative to the package in another checkout, in
  alternating processes;
- the share that recording (`inspect.every`) adds to training time of lumiere-1m (bound: 3%).
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro


@dataclass
class Options:
    """Measure the cost of inspection on this machine."""

    before: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Another checkout of this repository, to compare uninspected speed with."""
    rounds: int = 6
    only: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Run one measurement, and print its seconds as JSON."""


def new_model() -> Any:
    from lumenspark.models import LumiereConfig, LumiereForCausalLM

    torch.manual_seed(0)
    model = LumiereForCausalLM(LumiereConfig(dropout=0.0, eos_token_id=None))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def seconds(work: Callable[[], object], repeat: int) -> float:
    """The median time of one call."""
    work()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def forward(model: Any) -> float:
    ids = torch.randint(3, 4096, (1, 64))
    with torch.no_grad():
        return seconds(lambda: model(ids), 200)


def training(model: Any) -> float:
    """One forward and backward pass of 64 windows."""
    ids = torch.randint(3, 4096, (64, 64))

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    model.train()
    result = seconds(step, 20)
    model.eval()
    return result


def generation(model: Any) -> float:
    """48 tokens, greedily."""
    ids = torch.randint(3, 4096, (1, 8))
    return seconds(lambda: model.generate(ids, max_new_tokens=48, do_sample=False), 10)


PLAIN = {"forward pass": forward, "training step": training, "generation": generation}


def trace_and_patch(model: Any) -> None:
    """Trace and patch once; no hooks remain."""
    from lumenspark.inspect import patch, trace, zero

    with patch(model, {"blocks.1.attention.heads[2]": zero}):
        trace(model, torch.randint(3, 4096, (1, 64)), ["*"], gradients=True)


def in_another_process(name: str, source: Path | None) -> float:
    """Seconds of one of PLAIN, with this package or the one in ``source``."""
    environment = dict(os.environ)
    if source is not None:
        environment["PYTHONPATH"] = str(source.resolve() / "src")
    done = subprocess.run(
        [sys.executable, __file__, "--only", name],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def traces(options: Options) -> None:
    from lumenspark.inspect import trace

    model, ids = new_model(), torch.randint(3, 4096, (1, 64))
    ratios = []
    for _ in range(options.rounds):
        plain = forward(model)
        traced = seconds(lambda: trace(model, ids, ["blocks.*.attention.pattern"]).loss, 200)
        ratios.append(traced / plain)
    print(f"trace of all patterns, 64 tokens   {statistics.median(ratios):6.2f} forward passes")


def untraced(options: Options) -> None:
    for name, measure in PLAIN.items():
        ratios = []
        for _ in range(options.rounds):
            fresh, traced_before = new_model(), new_model()
            trace_and_patch(traced_before)
            ratios.append(measure(traced_before) / measure(fresh))
        print(f"{name} after a trace, relative to a fresh model {statistics.median(ratios):6.3f}")
    if options.before is None:
        return
    for name in PLAIN:
        times: dict[Path | None, list[float]] = {None: [], options.before: []}
        for number in range(options.rounds):
            order = list(times) if number % 2 else list(times)[::-1]  # alternate the order
            for source in order:
                times[source].append(in_another_process(name, source))
        now, before = map(statistics.median, times.values())
        print(f"{name} now, relative to {options.before.name} {now / before:6.3f}")


def recording(options: Options) -> None:
    from lumenspark.recipe import load_recipe, with_overrides
    from lumenspark.reporter import Reporter
    from lumenspark.training.setup import set_up
    from lumenspark.training.timing import seconds_per_record, seconds_per_step
    from lumenspark.training.trainer import Trainer

    recipe = with_overrides(load_recipe("lumiere-1m"), {"train.steps": 1000})
    trainer = Trainer(set_up(recipe, Reporter()), Reporter())
    shares = []
    for _ in range(options.rounds):
        step = seconds_per_step(trainer)
        record = statistics.median(seconds_per_record(trainer) for _ in range(5))
        shares.append(record / (step * recipe.inspect.every))
        print(f"  a step {step * 1e3:.0f} ms, a record {record * 1e3:.0f} ms", flush=True)
    share = statistics.median(shares)
    print(f"recording every {recipe.inspect.every} steps adds {share:.2%} to training")


def main(options: Options) -> None:
    if options.only:
        print(json.dumps(PLAIN[options.only](new_model())))
        return
    traces(options)
    untraced(options)
    recording(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
