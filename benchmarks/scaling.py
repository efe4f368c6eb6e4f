"""Do the rules of `--size` hold? Rates at three sizes, and a law that predicts a larger model.

    python benchmarks/scaling.py --data wikitext-2-raw --out scaling

Trains `lumiere-1m` at other sizes (`--size`), one process with one thread at a time, and puts every
result as a line into OUT/results.jsonl. What is there is not trained again, so it can be stopped at
any moment; `--tables` trains nothing and prints what there is. New rules need a new OUT. The test
split is never scored.

rates: both rates in turn, halved and doubled around lumiere-1m's, on equally many tokens. Where the
losses' parabola over log2 of the rate is lowest is the best rate; it is printed beside the rule's.
law: E + A/N^a + B/D^b, fitted to small models at three numbers of tokens.
check: what the law says of 3m, and what 3m then reaches.

Loss is in nats per token by the card's protocol, on 2,048 windows of 64 tokens, evenly spread over
the validation split, with the weights after the last step. All sizes are scored on these windows,
although larger ones are trained with a longer context: so the law has one variable less, and says
nothing about what a longer context gains.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from scaling_law import Law, Point, draw, fit, spread

from lumenspark.recipe import Recipe, load_recipe, with_overrides
from lumenspark.training.scaling import parse_size, scaled

RATE_SIZES = ("300k", "1m", "3m")
RATE_TOKENS = 750_000
RATES: dict[str, tuple[float, ...]] = {
    "muon_lr": (0.01, 0.02, 0.04),
    "adamw_lr": (0.004, 0.008, 0.016),
}
LAW_SIZES = ("300k", "500k", "1m")
LAW_TOKENS = (750_000, 1_500_000, 3_000_000)
PREDICTED = "3m"
MOST_FREE = 5  # numbers in the law: a fit needs more points
WINDOWS = 2048  # of the validation split

Result = dict[str, Any]


@dataclass
class Options:
    """Measure the rules of --size: rates, the law, and a prediction."""

    data: str
    """Text to train on, as of lumenspark train."""
    out: Path
    """Folder for results.jsonl, runs and the picture."""
    tables: bool = False
    """Train nothing; print what the results so far say."""
    only: Annotated[str | None, tyro.conf.arg(metavar="TRIAL")] = None
    """Train one trial, given as JSON, and print its result as JSON."""


@dataclass(frozen=True)
class Trial:
    """One training. ``tokens`` is what is asked for; whole steps come below it."""

    size: str
    tokens: int
    muon_lr: float
    adamw_lr: float


def trial(size: str, tokens: int, **rates: float) -> Trial:
    """A trial at the rule's rates, but for those given."""
    optim = scaled(load_recipe("lumiere-1m"), size).optim
    rule = {"muon_lr": optim.muon_lr, "adamw_lr": optim.adamw_lr}
    return Trial(size, tokens, **(rule | rates))


def plan() -> list[Trial]:
    """Every trial, the cheap ones first."""
    law = [trial(size, tokens) for tokens in LAW_TOKENS for size in (*LAW_SIZES, PREDICTED)]
    rates = [each for size in RATE_SIZES for key in RATES for each in sweep(size, key)]
    # Some trials are in both; a dictionary keeps one of each.
    return sorted(dict.fromkeys(rates + law), key=lambda each: parse_size(each.size) * each.tokens)


def sweep(size: str, key: str) -> list[Trial]:
    """Trials that differ in one rate; the other is that of lumiere-1m."""
    optim = load_recipe("lumiere-1m").optim
    base = {name: getattr(optim, name) for name in RATES}
    return [trial(size, RATE_TOKENS, **(base | {key: rate})) for rate in RATES[key]]


# Training


def recipe_of(asked: Trial, data: str) -> Recipe:
    recipe = scaled(load_recipe("lumiere-1m"), asked.size)
    steps = asked.tokens // recipe.tokens_per_step
    overrides = {
        "data": data,
        "optim": {"muon_lr": asked.muon_lr, "adamw_lr": asked.adamw_lr},
        "inspect.every": 0,
        "train": {
            "steps": steps,
            "threads": 1,
            "compile": "on",
            "validate_every": steps,
            "validation_windows": 64,
            "save_every": steps,
            "keep_checkpoints": 0,
        },
    }
    return with_overrides(recipe, overrides)


def train_one(asked: Trial, data: str) -> Result:
    from lumenspark.evaluation.scoring import card_loss
    from lumenspark.reporter import Reporter
    from lumenspark.runs.run import new_run
    from lumenspark.training.losses import autocast
    from lumenspark.training.setup import set_up
    from lumenspark.training.trainer import Trainer

    reporter = Reporter()
    setup = set_up(recipe_of(asked, data), reporter)
    trainer = Trainer(setup, reporter)
    run = new_run(trainer.recipe)
    session = trainer.train(run)
    validation = setup.tokens.splits["validation"]
    with autocast(setup.recipe.device, setup.recipe.train.precision == "bf16"):
        loss, targets = card_loss(setup.model, validation, limit_windows=WINDOWS)
    recipe = trainer.recipe
    return {
        **asdict(asked),
        "run": run.id,
        "steps": recipe.train.steps,
        "tokens_seen": recipe.train.steps * recipe.tokens_per_step,
        "parameters": sum(parameter.numel() for parameter in setup.model.parameters()),
        "model": asdict(recipe.model),
        "loss": loss,
        "targets": targets,
        "seconds": session.state.seconds,
    }


def train_missing(results: dict[Trial, Result], options: Options) -> None:
    """The trials of the plan that have no result yet, each in a fresh process."""
    for asked in plan():
        if asked in results:
            continue
        results[asked] = _train_apart(asked, options)
        with (options.out / "results.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(results[asked]) + "\n")
        print(f"{asked}: {results[asked]['loss']:.4f}", flush=True)


def _train_apart(asked: Trial, options: Options) -> Result:
    command = [sys.executable, __file__, "--data", options.data, "--out", str(options.out)]
    command += ["--only", json.dumps(asdict(asked))]
    environment = os.environ | {"LUMENSPARK_RUNS": str(options.out / "runs")}
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: Result = json.loads(child.stdout.splitlines()[-1])
    return result


def read_results(folder: Path) -> dict[Trial, Result]:
    file = folder / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    results = [json.loads(line) for line in lines]
    return {Trial(*(result[field.name] for field in fields(Trial))): result for result in results}


# What is printed


def print_rates(results: dict[Trial, Result]) -> None:
    for key, rates in RATES.items():
        heads = "".join(f"{rate:>10g}" for rate in rates)
        print(f"\nloss by {key:<12}{heads}{'best':>10}{'rule':>10}{'above best':>12}")
        for size in RATE_SIZES:
            done = {
                rate: results.get(each) for rate, each in zip(rates, sweep(size, key), strict=True)
            }
            losses = {rate: result["loss"] for rate, result in done.items() if result}
            columns = "".join(f"{losses[r]:>10.4f}" if r in losses else f"{'-':>10}" for r in rates)
            if len(losses) == len(rates):
                rule = getattr(trial(size, RATE_TOKENS), key)
                best, above = parabola(rates, list(losses.values()), rule)
                columns += f"{best:>10.4f}{rule:>10.4f}{above:>12.4f}"
            print(f"{size:<20}{columns}")


def parabola(rates: tuple[float, ...], losses: list[float], rule: float) -> tuple[float, float]:
    """The rate at the lowest point of the parabola through three losses over log2 of the rate, and
    how far above that point the parabola is at the rate ``rule``, in nats.
    """
    curve = np.poly1d(np.polyfit(np.log2(rates), losses, 2))
    best = -curve[1] / (2 * curve[2])
    return float(2**best), float(curve(np.log2(rule)) - curve(best))


def print_law(results: dict[Trial, Result], picture: Path) -> None:
    def points(*sizes: str) -> list[Point]:
        trials = [trial(size, tokens) for size in sizes for tokens in LAW_TOKENS]
        return [point_of(results[each]) for each in trials if each in results]

    small, large = points(*LAW_SIZES), points(PREDICTED)
    if len(small) <= MOST_FREE:
        print(f"\n{len(small)} points are too few for a law of {MOST_FREE} numbers")
        return
    law = fit(small)
    print(f"\n{law}")
    print(f"{'':<6}{'parameters':>12}{'tokens':>12}{'FLOP':>10}{'loss':>9}{'law':>9}{'off by':>9}")
    for point in small:
        _print_point(point, law)
    if not large:
        return
    print(f"\n{PREDICTED}, which the law has not seen, and what it says without one of its points:")
    for point in large:
        low, high = spread(small, point.parameters, point.tokens)
        _print_point(point, law, f"  {low:.4f} to {high:.4f}")
    draw(law, small, large, picture)


def point_of(result: Result) -> Point:
    """With the FLOPs of forward and backward: six for each weight in a product, and attention's.

    Positions are looked up, not multiplied. A token's two attention products take 4 T E in each
    block (all T keys: masked ones are computed, too), and twice that backward.
    """
    model = result["model"]
    width, context = model["hidden_size"], model["max_position_embeddings"]
    weights = 6 * (result["parameters"] - context * width)
    attention = 12 * model["num_hidden_layers"] * context * width
    tokens = result["tokens_seen"]
    flops = (weights + attention) * tokens
    return Point(result["size"], result["parameters"], tokens, flops, result["loss"])


def _print_point(point: Point, law: Law, more: str = "") -> None:
    predicted = law.loss(point.parameters, point.tokens)
    print(
        f"{point.size:<6}{point.parameters:>12,}{point.tokens:>12,}{point.flops:>10.2e}"
        f"{point.loss:>9.4f}{predicted:>9.4f}{predicted - point.loss:>+9.4f}{more}"
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.only:
        print(json.dumps(train_one(Trial(**json.loads(options.only)), options.data)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    results = read_results(options.out)
    if not options.tables:
        train_missing(results, options)
    print_rates(results)
    print_law(results, options.out / "scaling.svg")


if __name__ == "__main__":
    main()
