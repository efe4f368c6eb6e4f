"""lumenspark generate: stream text from a model."""

import codecs
import json
import sys
from dataclasses import dataclass, field
from typing import IO, Annotated, Any

import tyro

from lumenspark.cli.arguments import LoadArguments
from lumenspark.cli.parsing import Model, default, parse
from lumenspark.errors import UserError


@dataclass
class Arguments:
    """Generate text. Prompts come from the command line, or one per line from standard input."""

    model: Model
    """A folder, a run id or a unique prefix of one, latest, or a hub id."""
    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PROMPT]")] = None
    """Prompt to continue; without it, prompts are read from standard input."""
    max_new_tokens: int = 100
    """Tokens to generate; past the context length, the newest half of the context is kept."""
    temperature: float = 0.8
    """Sampling temperature; 0: greedy decoding."""
    top_k: int = 50
    """Sample from the k most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this cumulative probability."""
    repetition_penalty: float = 1.0
    """Values above 1 make tokens that occurred before less likely."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Number of texts per prompt."""
    seed: Annotated[int | None, default("random")] = None
    """Random seed; the n-th text of each prompt uses seed + n - 1."""
    json: bool = False
    """Print one JSON object per text."""
    load: Annotated[LoadArguments, tyro.conf.arg(name="")] = field(default_factory=LoadArguments)


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "generate", arguments)
    prompts = _prompts(options.prompt)
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
    model, tokenizer = load(options.model, **options.load.keywords())
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
    """The raw bytes. Python decodes invalid ones to lone surrogates (surrogateescape)."""
    if not isinstance(source, str):
        if hasattr(source, "buffer"):
            return bytes(source.buffer.read())
        source = source.read()
    return source.encode("utf-8", "surrogateescape")


def _as_text(content: bytes, what: str) -> str:
    """Decoded UTF-8. Raises UserError with the position of an invalid byte."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(
            f"{what} is not UTF-8: byte {error.start + 1} is 0x{byte:02x} (in Latin-1: "
            f"{chr(byte)!r}), so set the terminal to UTF-8, or convert the text with iconv"
        ) from error


def _print_json(value: dict[str, Any]) -> None:
    """Escape non-ASCII characters if the output encoding is not UTF-8."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=not encoding.startswith("utf")), flush=True)
