"""lumenspark inspect: a page about a model's inner workings."""

import os
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
    """Write one HTML page, which opens in any browser without a network: a text in a model (tokens
    by loss, attention maps, logit lens, head scores, attribution), the scores of all heads
    (--heads), or a text in two models (--compare)."""

    model: Model
    """A folder, a run id or a unique prefix of one, latest, or a hub id."""
    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")] = None
    """Text to show; read from standard input by default."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("inspect.html")
    """File to write."""
    open: bool = False
    """Open the page in the default browser (of the environment variable BROWSER, if set)."""
    heads: bool = False
    """Scores of all heads on repeated random tokens, and metrics from training; takes no text."""
    compare: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A second model for the same text."""
    whole: Annotated[str | None, tyro.conf.arg(metavar="LAYER.HEAD,…")] = None
    """Heads to keep at full resolution in texts of more than 256 tokens: 2.1,3.0."""
    checkpoint: str = "best"
    """Checkpoint of a run: best, last or step-N."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    revision: str | None = None
    """Commit, branch or tag of a hub model; MODEL@REVISION works too."""
    full_check: bool = False
    """Verify digests of whole files; without it, of samples of files over 256 MB."""
    trust_remote_code: bool = False
    """Run Python code that ships with the weights."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "inspect", arguments)
    if options.heads and (options.text is not None or options.compare or options.whole):
        raise UserError("--heads takes no text, --compare or --whole: omit them")
    if options.out.is_dir() or not options.out.parent.is_dir():
        raise UserError(f"-o {options.out}: name a file in a folder that exists")
    whole = _whole(options.whole)
    text = None if options.heads else _text(options.text)

    from lumenspark.files import write_file

    page = _heads_page(options) if text is None else _text_page(options, text, whole)
    write_file(options.out, page)
    kilobytes = options.out.stat().st_size / 1000
    print(f"{options.out}: {kilobytes:,.0f} kB" + ("" if options.open else "; --open shows it"))
    if options.open and not open_page(options.out):
        print(f"there is no browser to open it here: open {options.out.resolve()} in another way")


def open_page(file: Path) -> bool:
    """Show a page in the user's browser; False if there is none, as without a display."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    # A browser of the terminal would draw over it, and cannot run the page.
    if type(browser) is webbrowser.GenericBrowser and not os.environ.get("BROWSER"):
        return False
    return bool(browser.open(file.resolve().as_uri()))


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
    """A model, its tokenizer, and its title."""
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
    """The run that ``model`` names; None for a model folder or a hub id."""
    from lumenspark.runs.run import find_run

    return None if (Path(name) / "config.json").is_file() else find_run(name)


def _text(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        raise UserError("there is no text: pass one, pipe it to standard input, or use --heads")
    try:
        text = sys.stdin.buffer.read().decode() if given is None else given
        text.encode()  # arguments may contain bytes that are not text
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
