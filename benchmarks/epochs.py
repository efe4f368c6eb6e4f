"""How many epochs over a small text help? Test figures over text sizes and numbers of epochs.

    python benchmarks/epochs.py --data wikitext-2-raw --out epochs

Trains `lumiere-1m` on the first part of the train split in several sizes (each a folder of files
with the whole validation and test splits), for several numbers of epochs, each with its whole
learning-rate schedule. Every result is a line of OUT/results.jsonl; what is there is not trained
again. `--tables` trains nothing. The best number of epochs of a size is where the parabola through
the lowest point and its neighbours, over the logarithm of the epochs, is lowest; beside it stands
what `train.max_epochs: auto` allows (lumenspark/training/epochs.py).

Bits per byte are of the test split, strided protocol, with the weights after the last step.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console

from lumenspark.data.corpora import open_corpus
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.training.epochs import most_epochs
from lumenspark.training.setup import set_up
from lumenspark.training.trainer import Trainer

# Megabytes of train text: numbers of epochs, around where the loss is lowest.
GRID: dict[float, tuple[float, ...]] = {
    0.5: (2, 3.5, 6, 10),
    1: (2, 3.5, 6, 10),
    2: (3, 5, 8, 13),
    5: (4, 7, 11),
    10: (5, 9, 15),
    20: (6, 12),
}


@dataclass
class Options:
    """Test figures over text sizes and numbers of epochs."""

    data: str
    """Text to train on, as of lumenspark train."""
    out: Path
    """Folder for results.jsonl and the shortened texts."""
    recipe: str = "lumiere-1m"
    """The recipe; its data and budget are replaced."""
    sizes: tuple[float, ...] = ()
    """Megabytes of train text; default: all that the text has."""
    epochs: tuple[float, ...] = ()
    """Numbers of epochs; default: those of the table in this file."""
    dropout: float = 0.0
    """Dropout of the model."""
    weight_decay: float = 0.1
    """Weight decay."""
    seed: int = 0
    """Seed of weights and order."""
    tables: bool = False
    """Train nothing; print what the results so far say."""


@dataclass(frozen=True)
class Result:
    """One training."""

    data: str
    recipe: str
    megabytes: float
    epochs: float
    dropout: float
    weight_decay: float
    seed: int
    parameters: int
    train_tokens: int
    steps: int
    train_loss: float
    validation_loss: float
    bits_per_byte: float
    seconds: float

    @property
    def key(self) -> tuple[object, ...]:
        return (
            self.data,
            self.recipe,
            self.megabytes,
            self.epochs,
            self.dropout,
            self.weight_decay,
            self.seed,
        )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    if not options.tables:
        measure(options, file)
    show(read(file))


def read(file: Path) -> list[Result]:
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    return [Result(**json.loads(line)) for line in lines]


def measure(options: Options, file: Path) -> None:
    corpus = open_corpus(options.data)
    available = len(corpus.text("train").encode()) / 1e6
    for megabytes in options.sizes or [size for size in GRID if size <= available * 1.1]:
        folder = shortened(options, megabytes)
        for epochs in options.epochs or GRID[megabytes]:
            wanted = (Path(options.data).name, options.recipe, megabytes, epochs)
            key = (*wanted, options.dropout, options.weight_decay, options.seed)
            if any(result.key == key for result in read(file)):
                continue
            result = train(options, folder, megabytes, epochs)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(result)) + "\n")
            print(result, flush=True)


def shortened(options: Options, megabytes: float) -> Path:
    """A folder with the first ``megabytes`` of the train split, in whole documents."""
    folder = options.out / f"{Path(options.data).name}-{megabytes:g}"
    if folder.is_dir():
        return folder
    folder.mkdir()
    corpus = open_corpus(options.data)
    for split in ("validation", "test"):
        (folder / f"{split}.txt").write_text(corpus.text(split), "utf-8")
    size, kept = 0.0, []
    for piece in corpus.pieces("train"):
        if piece.starts and size >= megabytes * 1e6:
            break
        kept.append(piece.text)
        size += len(piece.text.encode())
    (folder / "train.txt").write_text("".join(kept), "utf-8")
    return folder


def train(options: Options, folder: Path, megabytes: float, epochs: float) -> Result:
    started = time.monotonic()
    torch._dynamo.reset()
    changes = {
        "data": str(folder),
        "seed": options.seed,
        "model.dropout": options.dropout,
        "optim.weight_decay": options.weight_decay,
        "inspect.every": 0,
        "train.steps": 1000,
        "train.compile": "on",
        "train.validation_windows": 4096,
    }
    reporter = Reporter(Console(quiet=True))
    recipe = with_overrides(load_recipe(options.recipe), changes)
    setup = set_up(recipe, reporter)
    tokens = len(setup.tokens.splits["train"].ids)
    steps = max(1, round(epochs * tokens / recipe.tokens_per_step))
    recipe = with_overrides(setup.recipe, {"train.steps": steps})
    trainer = Trainer(type(setup)(**{**vars(setup), "recipe": recipe}), reporter)
    trainer.model.train()
    losses = [trainer.update(step).loss for step in range(steps)]
    last = losses[-max(1, steps // 20) :]
    validation = trainer.validation_loss()
    scored = evaluate(trainer.model, setup.tokenizer, setup.corpus, split="test")
    return Result(
        data=Path(options.data).name,
        recipe=options.recipe,
        megabytes=megabytes,
        epochs=epochs,
        dropout=options.dropout,
        weight_decay=options.weight_decay,
        seed=options.seed,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        train_tokens=tokens,
        steps=steps,
        train_loss=sum(last) / len(last),
        validation_loss=validation,
        bits_per_byte=scored.bits_per_byte or math.nan,
        seconds=time.monotonic() - started,
    )


def show(results: list[Result]) -> None:
    for result in sorted(results, key=lambda result: result.key):
        print(
            f"{result.data:<16} {result.megabytes:>5g} MB {result.train_tokens:>9,} tokens "
            f"{result.epochs:>5g} epochs {result.steps:>5} steps dropout {result.dropout:g} "
            f"decay {result.weight_decay:g} seed {result.seed}  "
            f"train {result.train_loss:.4f}  validation {result.validation_loss:.4f}  "
            f"test {result.bits_per_byte:.4f} bits per byte"
        )
    plain = [result for result in results if (result.dropout, result.weight_decay) == (0, 0.1)]
    print("\ntext, MB, best number of epochs, epochs of train.max_epochs: auto")
    for data, megabytes in sorted({(result.data, result.megabytes) for result in plain}):
        series = [r for r in plain if (r.data, r.megabytes) == (data, megabytes)]
        first = series[0]
        allowed = most_epochs(load_recipe(first.recipe), first.train_tokens, first.parameters)
        print(f"{data:<16} {megabytes:>5g} {best_epochs(series):>10} {allowed:>6.1f}")


def best_epochs(series: list[Result]) -> str:
    """Where the parabola through the best result and its neighbours is lowest."""
    series = sorted(series, key=lambda result: result.epochs)
    best = min(range(len(series)), key=lambda i: series[i].bits_per_byte)
    if best in {0, len(series) - 1}:
        return f"{'<' if best == 0 else '>'} {series[best].epochs:g}"
    three = series[best - 1 : best + 2]
    logs = [math.log(result.epochs) for result in three]
    a, b, _ = np.polyfit(logs, [result.bits_per_byte for result in three], 2)
    return f"{math.exp(-b / (2 * a)):.1f}"


if __name__ == "__main__":
    main()
