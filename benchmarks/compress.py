"""What a smaller model costs: perplexity against the share of parameters kept, plain and whitened.

    python benchmarks/compress.py RUN [RUN ...] --data my-folder

Each model's linear layers are cut down to shares of their weights by truncated SVD, once plain and
once whitened by the activations of the train split, and scored on the beginning of the test split
by the strided protocol. Embeddings and output layer stay, so the share of the whole model is
larger: both are printed. The ranks, too, are chosen by the text where there is one, and else by
spectral energy alone. Nothing is trained afterwards.
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
from lumenspark.compression.compress_model import observe_text, train_windows
from lumenspark.compression.svd import compress
from lumenspark.data.corpora import Corpus, open_corpus
from lumenspark.device import choose_device
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import Evaluation
from lumenspark.loading import load
from lumenspark.reporter import Reporter


@dataclass
class Options:
    """Perplexity against parameters kept."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders, runs, or ids on the hub."""
    data: str
    """The text, as for lumenspark evaluate."""
    shares: tuple[float, ...] = (0.9, 0.75, 0.5, 0.35, 0.25)
    """Of the weights of the linear layers."""
    characters: int = 200_000
    """How much of the test split is scored, from its beginning; 0: all."""
    whiten_tokens: int = 32_768
    """How much of the train split whitens."""
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
    """The share of all parameters that is left, and the figures."""
    smaller = copy.deepcopy(model)
    done = compress(smaller, params=share, activations=activations)
    return done.parameters / done.parameters_before, evaluate(smaller, tokenizer, corpus)


def table_of(name: str, options: Options, corpus: Corpus, scored: Corpus) -> Table:
    model, tokenizer = load(name, device=choose_device(options.device))
    windows = train_windows(corpus, name, "best", model, Reporter())
    activations = observe_text(model, windows, options.whiten_tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    table = Table(title=f"{name}: {parameters:,} parameters", box=None, header_style="bold")
    for column in ("weights kept", "of all", "plain", "bits/byte", "whitened", "bits/byte"):
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
