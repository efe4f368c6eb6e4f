"""lumenspark evaluate: perplexity and bits per byte of a causal language model."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lumenspark.cli.arguments import CorpusArguments, LoadArguments, run_named
from lumenspark.cli.parsing import Model, default, parse
from lumenspark.errors import UserError
from lumenspark.recipe import CorpusOptions


@dataclass
class Arguments:
    """Measure perplexity and bits per byte of any causal language model of transformers."""

    model: Model
    """A folder, a run id or a unique prefix of one, latest, or a hub id."""
    text: Annotated[CorpusArguments, tyro.conf.arg(name="")] = field(
        default_factory=CorpusArguments
    )
    load: Annotated[LoadArguments, tyro.conf.arg(name="")] = field(default_factory=LoadArguments)
    split: str = "test"
    """train, validation or test."""
    protocol: Literal["strided", "card", "lm_eval"] = "strided"
    """strided: every token predicted once; card: the model card's windows of 64, overlap 8; lm_eval: as EleutherAI's lm_eval."""  # noqa: E501
    context: Annotated[
        int | None, default("the model's maximum; strided: up to 1024; card: 64")
    ] = None
    """Context length in tokens."""
    stride: Annotated[int | None, default("half the context")] = None
    """strided: new tokens per window; a stride of the whole context gives lm_eval's windows."""
    json: bool = False
    """Print the results as JSON."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "evaluate", arguments)
    from lumenspark.api import keep
    from lumenspark.evaluation.perplexity import evaluate
    from lumenspark.evaluation.results import describe
    from lumenspark.evaluation.weights import load_to_score

    if options.text.corpus.headings != CorpusOptions.headings:
        raise UserError(
            "--corpus.headings is for training: protocol card drops headings, the others keep them"
        )
    run = run_named(options.model)
    corpus = options.text.open(options.model, run)
    if left_out := corpus.describe_left_out():
        print(left_out, file=sys.stderr)
    model, tokenizer, weights = load_to_score(options.model, **options.load.keywords())
    with progress_bar() as progress:
        figures = evaluate(
            model,
            tokenizer,
            corpus,
            split=options.split,
            protocol=options.protocol,
            context=options.context,
            stride=options.stride,
            progress=progress,
        )
    try:  # results are printed if storing fails, and stored if printing fails
        command = shlex.join(["lumenspark", "evaluate", *arguments])
        keep(figures, options.model, run, options.load.checkpoint, weights, command)
    finally:
        print(json.dumps(figures.to_dict(), indent=2) if options.json else describe(figures))


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Progress on stderr while targets are scored; none if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
