"""Perplexity against model size after compression, by plain and by whitened SVD.

    python benchmarks/compress.py RUN [RUN ...] --data my-folder

Each model's linear layers are compressed to fractions of their weights by truncated SVD, plain and
whitened by activations on the train split, and scored on the beginning of the test split by the
strided protocol. Embeddings and output layer stay unchanged, so the fraction of the whole model is
larger: both are printed. Ranks are allocated by activations in the whitened case, and by spectral
energy in the plain one. No fine-tuning.
"""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from lumenspark.compression.activations import Activations
from lumenspark.compression.compress_model import calibrate, train_windows
from lumenspark.compression.svd import compress
from lumenspark.data.corpora import Corpus, open_corpus
from lumenspark.device import choose_device
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import Evaluation
from lumenspark.loading import load, locate
from lumenspark.reporter import Reporter


@dataclass
class Options:
    """Perplexity against model size."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders, runs, or hub ids."""
    data: str
    """The text, as for lumenspark evaluate."""
    shares: tuple[float, ...] = (0.9, 0.75, 0.5, 0.35, 0.25)
    """Fractions of the weights of the linear layers."""
    characters: int = 200_000
    """Characters of the test split to score, from its beginning; 0: all."""
    calibration_tokens: int = 32_768
    """Tokens of the train split for calibration."""
    device: str = "auto"


def beginning(corpus: Corpus, characters: int, folder: Path) -> Corpus:
    """The test split's first ``characters``, as a text of its own (0: all of it)."""
    text = corpus.text("test")
    (folder / "test.txt").write_text(text[: characters or None], encoding="utf-8")
    return open_corpus(str(folder), layout=corpus.layout)


def score_compressed(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    share: float,
    activations: Mapping[str, Activations] | None,
) -> tuple[float, Evaluation]:
    """Parameters relative to the original model, and the evaluation."""
    smaller = copy.deepcopy(model)
    done = compress(smaller, params=share, activations=activations)
    return done.parameters / done.parameters_before, evaluate(smaller, tokenizer, corpus)


def table_of(name: str, options: Options, corpus: Corpus, scored: Corpus) -> Table:
    model, tokenizer = load(name, device=choose_device(options.device))
    folder, _ = locate(name)
    windows = train_windows(corpus, folder, model, Reporter())
    activations = calibrate(model, windows, options.calibration_tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    table = Table(title=f"{name}: {parameters:,} parameters", box=None, header_style="bold")
    for column in ("layer weights", "parameters", "plain", "bits/byte", "whitened", "bits/byte"):
        table.add_column(column, justify="right", no_wrap=True)
    whole = evaluate(model, tokenizer, scored)
    table.add_row("100%", "100%", *figures(whole), *figures(whole))
    for share in options.shares:
        _, plain = score_compressed(model, tokenizer, scored, share, None)
        left, whitened = score_compressed(model, tokenizer, scored, share, activations)
        table.add_row(f"{share:.0%}", f"{left:.1%}", *figures(plain), *figures(whitened))
    return table


def figures(score: Evaluation) -> tuple[str, str]:
    return f"{score.perplexity:,.2f}", f"{score.bits_per_byte:.4f}"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    corpus = open_corpus(options.data)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        scored = beginning(corpus, options.characters, Path(folder))
        part = f"the first {options.characters:,} characters" if options.characters else "all"
        title = f"{options.data}, {part} of the test split, perplexity of a token"
        console.print(title, markup=False, soft_wrap=True)
        for name in options.models:
            console.print()
            console.print(table_of(name, options, corpus, scored))


if __name__ == "__main__":
    main()
