"""lumenspark compress: a smaller copy of a model, its layers low-rank."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lumenspark.cli.evaluate import Arguments as Evaluated
from lumenspark.cli.evaluate import asked_corpus, progress_bar
from lumenspark.cli.parsing import Model, parse

if TYPE_CHECKING:
    from rich.table import Table

    from lumenspark.compression.compress_model import Compressed, Text
    from lumenspark.compression.svd import Compression
    from lumenspark.evaluation.results import Evaluation


@dataclass
class Arguments:
    """Write a copy of a model whose linear layers are low-rank (truncated SVD).

    How far is said by one of --rank, --keep and --params. A text (--data, or a run's own) whitens
    the decomposition, which makes it far better, and gives the perplexity before and after.
    """

    model: Model
    """A folder, a run's id or the beginning of one, latest, or an id on the hub."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write: new, or empty."""
    rank: int | None = None
    """The same rank for every layer that it makes smaller."""
    keep: float | None = None
    """The share of its spectral energy that every layer keeps, such as 0.9."""
    params: float | None = None
    """The share of their weights that all these layers together keep, such as 0.5."""
    heal: str | None = None
    """Train the compressed model on the text for such a time: 90s, 5m or 1h."""
    heal_rate: float | None = None
    """AdamW's highest rate in it, 0.001 unless given; lower for large models."""
    whiten_tokens: int | None = None
    """How much of the text whitens, 32,768 tokens unless given; 0: plain SVD."""
    data: str | None = None
    """The text, as for train; a run's own text unless given."""
    split: str = "test"
    """The split whose perplexity is printed; whitening and healing read train."""
    layout: Literal["auto", "plain", "wikitext"] = "auto"
    """How the text of --data is laid out."""
    text_field: str = "text"
    """The field or column of --data that holds the text, in JSON lines, Parquet and hub sets."""
    config: str | None = None
    """--data is a hub set: the configuration's name."""
    revision: str | None = None
    """--data is a hub set: the commit or tag."""
    checkpoint: str = "best"
    """Which checkpoint of a run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    model_revision: str | None = None
    """MODEL is on the hub: the commit, branch or tag, which may be written MODEL@REVISION too."""
    full_check: bool = False
    """Compare all of a checkpoint with its digests; of files over 256 MB a sample unless given."""
    trust_remote_code: bool = False
    """Run model code that lies beside the weights."""


OPENING = ("data", "layout", "text_field", "config", "revision")
READING = ("split", "heal", "heal_rate", "whiten_tokens")


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "compress", arguments)
    from rich.console import Console

    from lumenspark.compression.compress_model import compress_model

    made = compress_model(
        options.model,
        options.out,
        rank=options.rank,
        keep=options.keep,
        params=options.params,
        text=_text(options),
        checkpoint=options.checkpoint,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        revision=options.model_revision,
        full_check=options.full_check,
        progress_bar=progress_bar,
    )
    console = Console(highlight=False)
    console.print(_layer_table(made.compression))
    console.print(_summary(made.compression), soft_wrap=True)
    if made.compression.left:
        console.print(_left(made.compression.left), soft_wrap=True)
    if made.scores:
        console.print()
        console.print(_score_table(made))
        console.print(_protocol(made.scores["before"]), soft_wrap=True)
    print(
        f"\n{options.out} is a model like any other: lumenspark generate {options.out}; by itself "
        "transformers needs trust_remote_code=True to load it"
    )


def _text(options: Arguments) -> "Text | None":
    """The text of --data, or a run's own; None where there is neither, and none is needed."""
    from lumenspark.compression.compress_model import Text
    from lumenspark.runs.run import find_run

    is_folder = (Path(options.model) / "config.json").is_file()
    run = None if is_folder else find_run(options.model)
    asks_for_text = any(
        getattr(options, name) != getattr(Arguments, name) for name in OPENING + READING
    )
    if run is None and not asks_for_text:
        return None
    asked = Evaluated(options.model, **{name: getattr(options, name) for name in OPENING})
    given: dict[str, Any] = {
        "whiten_tokens": options.whiten_tokens,
        "heal_rate": options.heal_rate,
    }
    return Text(
        asked_corpus(asked, run),
        split=options.split,
        heal_for=options.heal,
        **{name: value for name, value in given.items() if value is not None},
    )


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
    what = "its output on the text (whitened)" if compression.whitened else "its weights (plain)"
    return (
        f"{compression.parameters:,} parameters of {compression.parameters_before:,}; "
        f"{compression.share:.1%} of the weights of these layers; error: of {what}, relative"
    )


def _left(others: dict[str, int]) -> str:
    listed = ", ".join(f"{count} {name}" for name, count in others.items())
    return f"left as they are, besides embeddings and output: {listed}"


def _score_table(made: "Compressed") -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("loss", "perplexity", "bits per byte"):
        table.add_column(name, justify="right")
    for stage, score in made.scores.items():
        steps = f" ({made.healing_steps:,} steps)" if stage == "healed" else ""
        bits = "" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f}"
        table.add_row(stage + steps, f"{score.loss:.4f}", f"{score.perplexity:.2f}", bits)
    return table


def _protocol(score: "Evaluation") -> str:
    return (
        f"{score.data}, {score.split} split, {score.targets:,} tokens, protocol {score.protocol}, "
        f"context {score.context}, stride {score.stride}"
    )
