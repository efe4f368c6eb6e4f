"""Text generation with any causal language model of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import IO, Any

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from lumenspark.errors import UserError, first_line, quoted
from lumenspark.models.continuation import (
    Continuation,
    EncodedPrompts,
    check_text,
    encode_prompts,
    generate_texts,
    padding_id,
)
from lumenspark.models.sampling import wanted

MOST_TEXTS = 1_000_000  # for one prompt
SEEDS = 2**63
LOOK = "check that it is a causal language model with intact weights, or try another prompt"
# Overrides generation_config.json: plain autoregressive decoding of one text.
ONE_TEXT: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "penalty_alpha": None,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 100
    temperature: float = 0.8  # 0: greedy decoding
    top_k: int = 50  # 0: all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            must = _wanted_seed(value) if field.name == "seed" else wanted(field.name, value)
            if must:
                raise UserError(f"{field.name} is {quoted(value)}: it must be {must}")

    def again(self, copy: int) -> "Sampling":
        """The same settings with the seed of the ``copy``-th text of a prompt."""
        return self if self.seed is None else replace(self, seed=(self.seed + copy) % SEEDS)

    def arguments(self) -> dict[str, Any]:
        """As arguments of transformers' ``generate``."""
        arguments: dict[str, Any] = {
            "max_new_tokens": int(self.max_new_tokens),
            "repetition_penalty": float(self.repetition_penalty),
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            arguments |= {
                "temperature": float(self.temperature),
                "top_k": int(self.top_k),
                "top_p": float(self.top_p),
            }
        return arguments


class _Writer(BaseStreamer):
    """Writes text to a file as soon as it is final. The first tokens are the prompt."""

    def __init__(self, tokenizer: Any, file: IO[str]) -> None:
        self._tokenizer = tokenizer
        self._file = file
        self._text: Continuation | None = None

    def put(self, value: Tensor) -> None:
        ids = value.flatten().tolist()
        if self._text is None:
            self._text = Continuation(self._tokenizer, ids)
        else:
            self._write(self._text.add(ids))

    def end(self) -> None:
        assert self._text is not None
        self._write(self._text.end() + "\n")

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def stream(model: Any, tokenizer: Any, prompt: str, sampling: Sampling, file: IO[str]) -> None:
    """Stream prompt and continuation to ``file``, followed by a line break.

    The text is that of :func:`continuations`.
    """
    encoded = _encode(model, tokenizer, prompt)
    file.write(prompt)
    file.flush()
    _generate(model, tokenizer, encoded, sampling, streamer=_Writer(tokenizer, file))


def continuations(
    model: Any, tokenizer: Any, prompt: str, sampling: Sampling, count: int = 1
) -> list[str]:
    """``count`` texts, each the prompt and a continuation.

    The n-th is sampled separately, with ``sampling.again(n)``, independent of the others.
    """
    check_count(count)
    encoded = _encode(model, tokenizer, prompt)
    different = count if sampling.temperature > 0 else 1
    texts = [
        _generate(model, tokenizer, encoded, sampling.again(copy)) for copy in range(different)
    ]
    return texts * (count // different)


def check_count(count: int) -> None:
    """Raises UserError for an invalid number of texts per prompt."""
    if not isinstance(count, int) or not 1 <= count <= MOST_TEXTS:
        raise UserError(
            f"the number of texts is {quoted(count)}: it must be from 1 to {MOST_TEXTS}"
        )


def _wanted_seed(seed: object) -> str | None:
    if seed is None or (isinstance(seed, int) and 0 <= seed < SEEDS):
        return None
    return "from 0 to 2**63 - 1"


def _encode(model: Any, tokenizer: Any, prompt: str) -> EncodedPrompts:
    """The prompt (1, T), on the model's device.

    Raises UserError for a prompt that is not text, has no tokens, or has tokens that the model
    does not have.
    """
    try:
        check_text(prompt)
    except ValueError as error:
        raise UserError(str(error)) from error
    with _understood("the tokenizer cannot read the prompt", "try another prompt or tokenizer"):
        if not tokenizer(prompt, verbose=False)["input_ids"]:
            raise UserError("the prompt has no tokens: give at least one word")
        encoded = encode_prompts(tokenizer, [prompt], model.device)
    highest, known = int(encoded.ids.max()), model.get_input_embeddings().num_embeddings
    if highest >= known:
        raise UserError(
            f"the tokenizer gives id {highest}, but the model has {known} embeddings: they "
            "do not belong together, so save the model's own tokenizer with its weights"
        )
    return encoded


def _generate(
    model: Any, tokenizer: Any, encoded: EncodedPrompts, sampling: Sampling, **arguments: Any
) -> str:
    """Prompt and continuation."""
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    arguments |= ONE_TEXT | {"pad_token_id": padding_id(tokenizer)} | sampling.arguments()
    generate = model.generate
    if getattr(model.generation_config, "stop_strings", None):
        generate = partial(model.generate, tokenizer=tokenizer)
    length = encoded.ids.shape[1] + sampling.max_new_tokens
    hook = model.register_forward_hook(_check_scores)
    try:
        what = f"{type(model).__name__} cannot continue this prompt"
        with _understood(what, LOOK), _ends_with_its_positions(model, length):
            _, [text] = generate_texts(generate, tokenizer, encoded, **arguments)
    finally:
        hook.remove()
    return text


def _check_scores(model: Any, inputs: Any, output: Any) -> None:
    """Raise UserError for NaN logits, from which sampling would silently choose token 0."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits[:, -1].isnan().any():
        raise UserError(
            f"the logits of {type(model).__name__} are NaN: its weights are damaged, "
            "or its training diverged, so use another checkpoint"
        )


@contextmanager
def _ends_with_its_positions(model: Any, length: int) -> Iterator[None]:
    """Convert errors of models without further positions to UserError."""
    positions = getattr(model.config, "max_position_embeddings", None)
    try:
        yield
    except (IndexError, RuntimeError) as error:
        # RoBERTa's positions start at 2, so it has two fewer. Errors of memory and of recursion are
        # subclasses of these two.
        beyond = positions is not None and length > positions - 2
        if not beyond or type(error) not in (IndexError, RuntimeError) or _is_of_memory(error):
            raise
        raise UserError(
            f"the text is longer than the {positions} positions of this model: give a shorter "
            "prompt or ask for fewer new tokens"
        ) from error


@contextmanager
def _understood(what: str, fix: str) -> Iterator[None]:
    """Convert errors of another library's model or tokenizer to UserError.

    Errors of writing the output pass through: a closed pipe, a full disk, an ASCII-only file.
    """
    try:
        yield
    except (UserError, OSError, UnicodeEncodeError):
        raise
    except Exception as error:
        if _is_of_memory(error):
            raise UserError(
                "there is not enough memory for a text of this length: give a shorter prompt or "
                "ask for fewer new tokens"
            ) from error
        raise UserError(f"{what} ({first_line(error)}): {fix}") from error


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch has no exception type for this."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
