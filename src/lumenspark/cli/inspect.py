"""lumenspark inspect: a page that shows what a model does inside."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lumenspark.cli.parsing import Model, parse
from lumenspark.errors import UserError, quoted

if TYPE_CHECKING:
    from lumenspark.runs.run import Run


@dataclass
class Arguments:
    """Write ONE page, a file that opens in any browser without a network: a text through a model
    (tokens by loss, attention maps, logit lens, head scores, attribution), --heads: what all heads
    do, or --compare: a text through two models."""

    model: Model
    """A folder, a run's id or the beginning of one, latest, or an id on the hub."""
    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")] = None
    """The text; standard input unless given."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("inspect.html")
    """Where to write the page."""
    heads: bool = False
    """Scores of all heads on repeated random tokens, and what training recorded; needs no text."""
    compare: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A second model to read the same text."""
    whole: Annotated[str | None, tyro.conf.arg(metavar="LAYER.HEAD,…")] = None
    """Heads to keep in full resolution where the text is longer than 256 tokens: 2.1,3.0."""
    checkpoint: str = "best"
    """Which checkpoint of a run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    revision: str | None = None
    """MODEL is on the hub: the commit, branch or tag, which may be written MODEL@REVISION too."""
    full_check: bool = False
    """Compare all of a checkpoint with its digests; of files over 256 MB a sample unless given."""
    trust_remote_code: bool = False
    """Run model code that lies beside the weights."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "inspect", arguments)
    if options.heads and (options.text is not None or options.compare or options.whole):
        raise UserError("--heads is about the model alone: leave text, --compare and --whole out")
    if options.out.is_dir() or not options.out.parent.is_dir():
        raise UserError(f"-o {options.out}: name a file in a folder that exists")
    whole = _whole(options.whole)
    text = None if options.heads else _text(options.text)

    from lumenspark.files import write_file

    page = _heads_page(options) if text is None else _text_page(options, text, whole)
    write_file(options.out, page)
    print(f"{options.out}: {options.out.stat().st_size / 1000:,.0f} kB; open it in a browser")


def _text_page(options: Arguments, text: str, whole: list[tuple[int, int]]) -> str:
    from lumenspark.inspect.pages.build import text_content
    from lumenspark.inspect.pages.content import CompareContent
    from lumenspark.inspect.pages.render import render_compare_page, render_text_page

    contents = []
    for name in [options.model] + ([options.compare] if options.compare else []):
        model, tokenizer, title = _load(options, name)
        contents.append(text_content(model, text, title, tokenizer=tokenizer, whole=whole))
    if len(contents) == 1:
        return render_text_page(contents[0])
    title = f"{contents[0].title} and {contents[1].title}"
    try:
        return render_compare_page(CompareContent(title, *contents))
    except ValueError as error:  # their tokenizers normalise the text differently
        raise UserError(f"the two models cannot be compared on this text: {error}") from error


def _heads_page(options: Arguments) -> str:
    from lumenspark.inspect.pages.build import heads_content
    from lumenspark.inspect.pages.render import render_heads_page
    from lumenspark.inspect.recording import recorded_series

    model, _, title = _load(options, options.model)
    run = _run_of(options.model)
    series = recorded_series(run.metrics()) if run is not None else None
    return render_heads_page(heads_content(model, title, series))


def _load(options: Arguments, name: str) -> tuple[Any, Any, str]:
    """A model, its tokenizer, and what to call it."""
    from lumenspark.device import choose_device
    from lumenspark.inspect.architectures import architecture_of
    from lumenspark.loading import load

    model, tokenizer = load(
        name,
        options.checkpoint,
        choose_device(options.device),
        options.trust_remote_code,
        options.revision if name == options.model else None,
        options.full_check,
    )
    architecture_of(model)  # raises for an architecture that cannot be inspected
    run = _run_of(name)
    if run is None:
        return model, tokenizer, Path(name).name if Path(name).is_dir() else name
    return model, tokenizer, f"run {run.id} ({run.recipe().name}), checkpoint {options.checkpoint}"


def _run_of(name: str) -> "Run | None":
    """The run of that name; None for a folder with a model in it, or an id on the hub."""
    from lumenspark.runs.run import find_run

    return None if (Path(name) / "config.json").is_file() else find_run(name)


def _text(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        raise UserError("there is no text: give one, or text on standard input, or --heads")
    try:
        text = sys.stdin.buffer.read().decode() if given is None else given
        text.encode()  # an argument may hold bytes that are no text
    except UnicodeError as error:
        raise UserError(f"the text is not UTF-8: {error}") from error
    if not text.strip():
        raise UserError("the text is empty: give at least one word")
    return text


def _whole(written: str | None) -> list[tuple[int, int]]:
    try:
        pairs = [part.split(".") for part in (written or "").split(",") if part]
        return [(int(layer), int(head)) for layer, head in pairs]
    except ValueError as error:
        raise UserError(
            f"--whole {quoted(written)}: write layers and heads such as 2.1,3.0"
        ) from error
