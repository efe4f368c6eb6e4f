"""Loss curves and logits that stay the same while the code around them changes.

``python tests/stored_numbers.py`` compares them with tests/stored_numbers.json and prints the
largest difference of each, which is 0 on the machine that wrote them; with ``--write`` it writes
the file anew. What is small and seeded here runs in seconds, and goes through the public functions
alone, so that it need not change when what is behind them does.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name("stored_numbers.json")
STEPS = 50
SPLITS = {"train": 60, "validation": 8, "test": 8}
SHARED = {
    "tokenizer.vocab_size": 300,
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.gradient_accumulation_steps": 2,
    "train.compile": "off",
    "train.log_every": 1,
    "train.validate_every": 25,
    "train.save_every": STEPS,
    "train.threads": 1,
    "model.dropout": 0.1,
    "device": "cpu",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "lumiere": {},
    "lumenspark": {
        "model": {
            "family": "lumenspark",
            "embed_dim": 48,
            "depth": 2,
            "heads": 2,
            "rank": 16,
            "k": 6,
            "window": 8,
            "seq_length": 32,
        }
    },
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "muon": {},
    "adamw, average": {"optim.name": "adamw", "train.ema_decay": 0.9},
    "teachers": {"distill.teachers": 1, "distill.steps": 10, "distill.samples": 4},
}
MODELS: dict[str, dict[str, Any]] = {
    "lumiere": {},
    "content": {"k": 3},
    "position": {"k": 3, "projection": "position"},
    "window alone": {"k": 0},
    "dense": {"k": None},
}


def curves() -> Iterator[tuple[str, list[float]]]:
    """Training losses of all steps, and validation losses, in nats, by family, precision, loss."""
    with tempfile.TemporaryDirectory() as folder, own_folders(Path(folder)):
        write_text(Path(folder) / "text")
        for family in FAMILIES:
            for precision in ("fp32", "bf16") if has_fast_bf16() else ("fp32",):
                for objective in OBJECTIVES:
                    losses = train(Path(folder) / "text", family, precision, objective)
                    yield f"{family}, {precision}, {objective}", losses


@contextmanager
def own_folders(folder: Path) -> Iterator[None]:
    """Inside, runs are written to ``folder``, and the token cache too."""
    before = dict(os.environ)
    os.environ["LUMENSPARK_RUNS"] = str(folder / "runs")
    os.environ["LUMENSPARK_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def train(text: Path, family: str, precision: str, objective: str) -> list[float]:
    """The losses of a training of 50 steps."""
    import lumenspark

    given = FAMILIES[family]
    if given:
        given = {"model": given["model"] | {"dropout": SHARED["model.dropout"]}}
    given = {k: v for k, v in SHARED.items() if k != "model.dropout" or not given} | given
    recipe = recipe_with(family, given | OBJECTIVES[objective] | {"train.precision": precision})
    run = lumenspark.train(recipe, data=str(text))
    metrics = list(run.metrics())
    names = ("loss", "validation_loss")
    return [line[name] for name in names for line in metrics if name in line]


def recipe_with(family: str, changes: dict[str, Any]) -> Any:
    """The recipe lumiere-tiny, or one of the same size of the other family, changed."""
    from lumenspark.recipe import load_recipe, recipe_from, with_overrides

    if family == "lumiere":
        return with_overrides(load_recipe("lumiere-tiny"), changes)
    model = recipe_from({"name": "stored", "model": changes.pop("model")}, source="stored")
    return with_overrides(model, changes)


def has_fast_bf16() -> bool:
    from lumenspark.device import choose_precision

    return choose_precision("auto", "cpu") == "bf16"


def write_text(folder: Path) -> None:
    """Sentences of a made-up language, the same on every machine."""
    draw = random.Random(0)
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    words = ["".join(draw.choice(syllables) for _ in range(draw.randint(1, 3))) for _ in range(200)]
    folder.mkdir()
    for name, documents in SPLITS.items():
        lines = []
        for _ in range(documents):
            first = draw.randrange(len(words))
            text = [words[(first + draw.randint(0, 9) ** 2) % len(words)] for _ in range(120)]
            lines.append(json.dumps({"text": " ".join(text).capitalize() + "."}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def logits() -> Iterator[tuple[str, list[float]]]:
    """Some logits of small seeded models, at all of 40 positions."""
    for name, changes in MODELS.items():
        model = seeded_model(name, changes)
        ids = torch.arange(80).view(2, 40).mul(7) % 96
        with torch.inference_mode():
            found = model(input_ids=ids).logits[..., ::12]
        yield name, [round(value, 7) for value in found.flatten().tolist()]


def seeded_model(name: str, changes: dict[str, Any]) -> Any:
    from lumenspark.models import (
        LumensparkConfig,
        LumensparkForCausalLM,
        LumiereConfig,
        LumiereForCausalLM,
    )

    torch.manual_seed(0)
    if name == "lumiere":
        return LumiereForCausalLM(LumiereConfig(vocab_size=96)).eval()
    sizes = {"vocab_size": 96, "embed_dim": 32, "depth": 2, "heads": 4, "seq_length": 48}
    config = LumensparkConfig(**sizes, rank=8, window=4, layer_scale=1.0, **changes)
    return LumensparkForCausalLM(config).eval()


def difference(one: list[float], other: list[float]) -> float:
    """The largest, or infinity where they are not of one length."""
    if len(one) != len(other):
        return float("inf")
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    torch.set_num_threads(1)
    found = {"logits": dict(logits()), "losses": dict(curves())}
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
        return
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    for kind, numbers in found.items():
        for name, values in numbers.items():
            print(f"{kind:8}{name:32}{difference(values, stored[kind][name]):.3g}")


if __name__ == "__main__":
    main()
