"""lumenspark evaluate: the figures of any causal language model."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lumenspark.cli.parsing import Model, parse
from lumenspark.errors import UserError

if TYPE_CHECKING:
    from lumenspark.data.corpora import Corpus
    from lumenspark.runs.run import Run


@dataclass
class Arguments:
    """Perplexity and bits per byte of any causal language model of transformers."""

    model: Model
    """A folder, a run's id or the beginning of one, latest, or an id on the hub."""
    data: str | None = None
    """The text, as for train; a run's own text unless given."""
    split: str = "test"
    """train, validation or test."""
    protocol: Literal["strided", "card", "lm_eval"] = "strided"
    """strided: every token once; card: the model card's windows of 64 that overlap by 8; lm_eval:
    the word perplexity of EleutherAI's lm_eval, its doubled beginning-of-text token included."""
    context: int | None = None
    """Tokens the model sees at once; as many as it takes (but for lm_eval up to 1024) unless
    given."""
    stride: int | None = None
    """strided: new tokens in each window; half the context unless given. As long as the context:
    the windows of lm_eval."""
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
    json: bool = False
    """Print the figures as JSON."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "evaluate", arguments)
    from lumenspark.device import choose_device
    from lumenspark.evaluation.perplexity import evaluate
    from lumenspark.evaluation.results import describe, store
    from lumenspark.evaluation.weights import load_to_score
    from lumenspark.model_card.card import update_card
    from lumenspark.runs.run import find_run, runs_folder

    run = None if (Path(options.model) / "config.json").is_file() else find_run(options.model)
    corpus = asked_corpus(options, run)
    if left_out := corpus.what_is_left_out():
        print(left_out, file=sys.stderr)
    model, tokenizer, weights = load_to_score(
        options.model,
        options.checkpoint,
        device=choose_device(options.device),
        trust_remote_code=options.trust_remote_code,
        revision=options.model_revision,
        full_check=options.full_check,
    )
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
    try:  # printed where they cannot be kept, and kept where they cannot be printed
        if run is not None:
            folder, checkpoint = run.path, options.checkpoint
        elif Path(options.model).is_dir():
            folder, checkpoint = Path(options.model), options.model
        else:  # a model on the hub
            folder = runs_folder() / "evaluations" / options.model.replace("/", "--")
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint = options.model
        store(
            folder,
            figures,
            checkpoint=checkpoint,
            step=weights.step,
            weights=weights.digest,
            command=shlex.join(["lumenspark", "evaluate", *arguments]),
        )
        if run is not None:
            update_card(run.path, options.checkpoint)
    finally:
        print(json.dumps(figures.to_dict(), indent=2) if options.json else describe(figures))


def asked_corpus(options: Arguments, run: "Run | None") -> "Corpus":
    """The text of --data, or a run's own."""
    from lumenspark.data.corpora import open_corpus
    from lumenspark.resolve import open_recipe_corpus

    if options.data is not None:
        return open_corpus(
            options.data,
            layout=options.layout,
            revision=options.revision,
            config=options.config,
            text_field=options.text_field,
        )
    if run is None:
        raise UserError(f"{options.model} is not a run, so say on which text: --data …")
    for name in ("layout", "text_field", "config", "revision"):
        if getattr(options, name) != getattr(Arguments, name):
            raise UserError(
                f"--{name.replace('_', '-')} is about the text of --data, and a run's own text is "
                "read as its recipe says: give --data too, or leave it out"
            )
    return open_recipe_corpus(run.recipe())


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while the targets are scored; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
