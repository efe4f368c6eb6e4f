"""A text sample from a model in training."""

from typing import Any

import torch

from lumenspark.errors import first_line, quoted

TEMPERATURE = 0.7


def sample_text(model: Any, tokenizer: Any, prompt: str, seed: int, tokens: int) -> str:
    """A continuation of ``prompt``, or the reason for none; an error must not stop training."""
    torch.manual_seed(seed)
    try:
        text = model.generate(
            text=prompt, tokenizer=tokenizer, max_new_tokens=tokens, temperature=TEMPERATURE
        )
    except Exception as error:  # a prompt that is not text, or has no tokens
        return f"none: the prompt {quoted(prompt)} cannot be continued ({first_line(error)})"
    return str(text)
