"""lumenspark generate: text from a model, as it is made."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from lumenspark.errors import UserError

from .parsing import Model, parse


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
    """The same seed gives the same text."""
    json: bool = False
    """Print one JSON object for each text."""
    checkpoint: str = "best"
    """Which checkpoint of a run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    trust_remote_code: bool = False
    """Run model code that lies beside the weights."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "generate", arguments)
    prompts = _prompts(options.prompt)
    if options.n < 1:
        raise UserError(f"-n is {options.n}: it must be 1 or more")
    from lumenspark.generation.text import Sampling, continuations, stream
    from lumenspark.loading import load
    from lumenspark.training.device import choose_device

    sampling = Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
    )
    device = choose_device(options.device)
    model, tokenizer = load(options.model, options.checkpoint, device, options.trust_remote_code)
    for number, prompt in enumerate(prompts):
        if options.json:
            for text in continuations(model, tokenizer, prompt, sampling, options.n):
                _print_json({"prompt": prompt, "text": text})
            continue
        for copy in range(options.n):
            if number or copy:
                print("\n---")
            stream(model, tokenizer, prompt, sampling.again(copy), sys.stdout)


def _prompts(prompt: str | None) -> list[str]:
    if prompt is not None:
        return [prompt]
    if sys.stdin.isatty():
        raise UserError("there is no prompt: give one, or lines on standard input")
    prompts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not prompts:
        raise UserError("standard input holds no prompt: give a line of text")
    return prompts


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)
