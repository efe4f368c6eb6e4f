"""lumenspark generate: text from a model, as it is made."""

import codecs
import json
import sys
from dataclasses import dataclass
from typing import IO, Annotated, Any, Literal

import tyro

from lumenspark.cli.parsing import Model, parse
from lumenspark.errors import UserError


@dataclass
class Arguments:
    """Write text. Prompts come from the command line, or from standard input, one a line."""

    model: Model
    """A folder, a run's id or the beginning of one, latest, or an id on the hub."""
    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PROMPT]")] = None
    """What to go on from."""
    max_new_tokens: int = 100
    """How much to write. Past the context the newest half of it is kept."""
    temperature: float = 0.8
    """0 takes the likeliest token each time."""
    top_k: int = 50
    """Only among so many likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Only among the likeliest tokens that make up this share of the probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that were there already become less likely."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """How many texts for each prompt."""
    seed: int | None = None
    """The same seed gives the same text, in whatever form. The n-th text of a prompt is drawn with
    seed + n - 1, whatever other prompts there are."""
    json: bool = False
    """Print one JSON object for each text."""
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
    options = parse(Arguments, "generate", arguments)
    prompts = _prompts(options.prompt)
    from lumenspark.device import choose_device
    from lumenspark.evaluation.model_checks import check_causal_briefly
    from lumenspark.generation.text import Sampling, check_count, continuations, stream
    from lumenspark.loading import check_generation, load

    check_count(options.n)
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
    )
    device = choose_device(options.device)
    model, tokenizer = load(
        options.model,
        options.checkpoint,
        device,
        options.trust_remote_code,
        options.revision,
        options.full_check,
    )
    check_causal_briefly(model)
    check_generation(model, tokenizer)
    for number, prompt in enumerate(prompts):
        for copy in range(options.n):
            drawn = sampling.again(copy)
            if options.json:
                [text] = continuations(model, tokenizer, prompt, drawn)
                _print_json({"prompt": prompt, "text": text})
                continue
            if number or copy:
                print("\n---")
            stream(model, tokenizer, prompt, drawn, sys.stdout)


def _prompts(prompt: str | None) -> list[str]:
    if prompt is not None:
        return [_as_text(_bytes(prompt), "the prompt")]
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("there is no prompt: give one, or lines on standard input")
    lines = _bytes(sys.stdin).removeprefix(codecs.BOM_UTF8).split(b"\n")
    prompts = [
        _as_text(line.removesuffix(b"\r"), f"line {number} of standard input")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not prompts:
        raise UserError("standard input holds no prompt: give a line of text")
    return prompts


def _bytes(source: str | IO[str]) -> bytes:
    """What was typed or piped. Python hides bytes that are no text in halves of characters."""
    if not isinstance(source, str):
        if hasattr(source, "buffer"):
            return bytes(source.buffer.read())
        source = source.read()
    return source.encode("utf-8", "surrogateescape")


def _as_text(content: bytes, what: str) -> str:
    """Raises UserError, with the place, where the bytes are no UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(
            f"{what} is not UTF-8: byte {error.start + 1} is 0x{byte:02x} (in Latin-1: "
            f"{chr(byte)!r}), so set the terminal to UTF-8, or convert the text with iconv"
        ) from error


def _print_json(value: dict[str, Any]) -> None:
    """Where the terminal cannot show every character, JSON has escapes for them."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=not encoding.startswith("utf")), flush=True)
