"""Text in, text out, for every causal language model of transformers."""

from dataclasses import dataclass, replace
from typing import IO, Any

import torch
from transformers import TextStreamer

from lumenspark.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 100
    temperature: float = 0.8  # 0: the likeliest token each time
    top_k: int = 50  # 0: all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for wrong, name, wanted in (
            (self.max_new_tokens < 1, "max_new_tokens", "1 or more"),
            (self.temperature < 0, "temperature", "0 or more"),
            (self.top_k < 0, "top_k", "0 or more"),
            (not 0 < self.top_p <= 1, "top_p", "above 0 and at most 1"),
            (self.repetition_penalty <= 0, "repetition_penalty", "above 0"),
            (not 0 <= (self.seed or 0) < 2**63, "seed", "from 0 to 2**63 - 1"),
        ):
            if wrong:
                raise UserError(f"{name} is {getattr(self, name)}: it must be {wanted}")

    def again(self, copy: int) -> "Sampling":
        """The same with another seed, for a further text of the same prompt."""
        return self if self.seed is None else replace(self, seed=self.seed + copy)

    def arguments(self) -> dict[str, Any]:
        """As transformers' ``generate`` names them."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            arguments |= {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return arguments


class _Writer(TextStreamer):
    """Writes each bit of text to a file as it is final."""

    def __init__(self, tokenizer: Any, file: IO[str]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._file = file

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._file.write(text + ("\n" if stream_end else ""))
        self._file.flush()


def stream(model: Any, tokenizer: Any, prompt: str, sampling: Sampling, file: IO[str]) -> None:
    """Write prompt and continuation to ``file`` while it is being made."""
    file.write(prompt)
    file.flush()
    _generate(model, tokenizer, prompt, sampling, streamer=_Writer(tokenizer, file))


def continuations(
    model: Any, tokenizer: Any, prompt: str, sampling: Sampling, count: int = 1
) -> list[str]:
    """``count`` texts, each the prompt and its continuation."""
    copies = count if sampling.temperature > 0 else 1
    ids, start = _generate(model, tokenizer, prompt, sampling, num_return_sequences=copies)
    shown = len(tokenizer.decode(ids[0][:start], skip_special_tokens=True))
    texts = [prompt + tokenizer.decode(row, skip_special_tokens=True)[shown:] for row in ids]
    return texts * (count // copies)


def _generate(
    model: Any, tokenizer: Any, prompt: str, sampling: Sampling, **arguments: Any
) -> tuple[Any, int]:
    """The ids of prompt and continuation (copies, T), and where the continuation starts."""
    encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    if encoded["input_ids"].shape[1] == 0:
        raise UserError("the prompt has no tokens: give at least one word")
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    start = encoded["input_ids"].shape[1]
    try:
        ids = model.generate(**encoded, pad_token_id=pad, **sampling.arguments(), **arguments)
    except IndexError as error:  # other models than ours end with their table of positions
        context = getattr(model.config, "max_position_embeddings", None)
        if context is None or start + sampling.max_new_tokens <= context:
            raise
        raise UserError(
            f"the text is longer than the {context} positions of this model: give a shorter prompt "
            "or ask for fewer new tokens"
        ) from error
    return ids, start
