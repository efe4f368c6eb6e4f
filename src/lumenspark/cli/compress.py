"""lumenspark compress: low-rank compression of a model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lumenspark.cli.arguments import CorpusArguments, LoadArguments, run_named
from lumenspark.cli.evaluate import progress_bar
from lumenspark.cli.parsing import Model, default, parse

if TYPE_CHECKING:
    from rich.table import Table

    from lumenspark.compression.compress_model import CompressionResult, TextSettings
    from lumenspark.compression.svd import Compression
    from lumenspark.evaluation.results import Evaluation

PARAMS = 0.9


@dataclass
class Arguments:
    """Write a copy of a model with low-rank linear layers (truncated SVD).

    The layers keep a fraction of their parameters, --params; embeddings and output stay. A text (of
    --data, or the data of a run) whitens the SVD, which lowers the loss a lot, and is scored before
    and after. Where perplexity more than doubles, nothing is written without --force.
    """

    model: Model
    """A folder, a run id or a unique prefix of one, latest, or a hub id."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write: new or empty."""
    params: Annotated[float | None, default(f"{PARAMS}")] = None
    """Fraction of their parameters that the layers keep together, such as 0.5."""
    energy: Annotated[float | None, default("--params instead")] = None
    """In place of --params: the fraction of the sum of its squared singular values that each layer
    keeps. 0.9 often keeps about half of the parameters, and may multiply the perplexity."""
    rank: Annotated[int | None, default("--params instead")] = None
    """In place of --params: one rank for all layers; a layer that it makes no smaller stays."""
    load: Annotated[LoadArguments, tyro.conf.arg(name="")] = field(default_factory=LoadArguments)
    text: Annotated[CorpusArguments, tyro.conf.arg(name="")] = field(
        default_factory=CorpusArguments
    )
    split: str = "test"
    """Split to score before and after; calibration and fine-tuning read train."""
    calibration_tokens: Annotated[int | None, default("32768")] = None
    """Tokens of the text that whiten the SVD; 0: plain SVD."""
    finetune: Annotated[str | None, default("no fine-tuning")] = None
    """Fine-tune the compressed model on the text for a time such as 90s, 5m or 1h."""
    finetune_lr: Annotated[float | None, default("0.001")] = None
    """Peak learning rate of fine-tuning (AdamW); use a lower one for large models."""
    force: bool = False
    """Write the model even if its perplexity is more than twice that of the original."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "compress", arguments)
    from rich.console import Console

    from lumenspark.compression.compress_model import compress_model

    text, params = _text(options), options.params
    if (options.rank, options.energy, params) == (None, None, None):
        params = PARAMS
    if text is None:
        print("there is no text, so neither loss nor perplexity is measured: --data names one")
    result = compress_model(
        options.model,
        options.out,
        rank=options.rank,
        energy=options.energy,
        params=params,
        text=text,
        force=options.force,
        progress_bar=progress_bar,
        **options.load.keywords(),
    )
    console = Console(highlight=False)
    console.print(_layer_table(result.compression))
    console.print(_summary(result.compression), soft_wrap=True)
    if result.compression.unchanged:
        console.print(_unchanged(result.compression.unchanged), soft_wrap=True)
    if result.scores:
        console.print()
        console.print(_score_table(result))
        console.print(_protocol(result.scores["original"]), soft_wrap=True)
    print(
        f"\n{options.out} loads like any model, as in lumenspark generate {options.out}; "
        "transformers without lumenspark needs trust_remote_code=True"
    )


def _text(options: Arguments) -> "TextSettings | None":
    """The text of --data or of the run; None if there is neither and no option needs one."""
    from lumenspark.compression.compress_model import TextSettings

    run = run_named(options.model)
    settings: dict[str, Any] = {
        "calibration_tokens": options.calibration_tokens,
        "finetune_time": options.finetune,
        "finetune_lr": options.finetune_lr,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    is_needed = given or options.split != Arguments.split or not options.text.is_default()
    if run is None and not is_needed:
        return None
    corpus = options.text.open(options.model, run)
    headings = options.text.corpus.headings
    if options.text.data is None and run is not None:
        headings = run.recipe().corpus.headings
    return TextSettings(corpus, split=options.split, headings=headings, **given)


def _layer_table(compression: "Compression") -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), show_footer=True)
    rows = compression.layers
    table.add_column("layer", f"{len(rows)} layers", overflow="fold")
    table.add_column("in x out", justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    for name, total in (
        ("weights", sum(row.weights for row in rows)),
        ("before", sum(row.weights_before for row in rows)),
    ):
        table.add_column(name, f"{total:,}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.in_features} x {row.out_features}",
            "dense" if row.rank is None else str(row.rank),
            f"{row.error:.4f}" if row.weights < row.weights_before else "",
            f"{row.weights:,}",
            f"{row.weights_before:,}",
        )
    return table


def _summary(compression: "Compression") -> str:
    of_what = (
        "of the output on the text (whitened SVD)"
        if compression.whitened
        else "of the weights (plain SVD)"
    )
    return (
        f"{compression.parameters:,} of {compression.parameters_before:,} parameters; these layers "
        f"keep {compression.weight_ratio:.1%} of theirs; error: relative, {of_what}"
    )


def _unchanged(others: dict[str, int]) -> str:
    listed = ", ".join(f"{count} {name}" for name, count in others.items())
    return f"unchanged, besides embeddings and output: {listed}"


def _score_table(result: "CompressionResult") -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("loss", "perplexity", "bits per byte"):
        table.add_column(name, justify="right")
    for stage, score in result.scores.items():
        steps = f" ({result.finetune_steps:,} steps)" if stage == "finetuned" else ""
        bits = "" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f}"
        table.add_row(stage + steps, f"{score.loss:.4f}", f"{score.perplexity:.2f}", bits)
    return table


def _protocol(score: "Evaluation") -> str:
    return (
        f"{score.data}, {score.split} split, {score.targets:,} tokens, protocol {score.protocol}, "
        f"context {score.context}, stride {score.stride}"
    )
