"""Page contents for tests, with known numbers and no model."""

from typing import Any

import numpy as np

from lumenspark.inspect.pages import TextContent, head_map

EVIL = "</script><img src=x onerror=alert(1)>"
SENTENCE = [
    "<|sot|>",
    "The",
    " river",
    " runs",
    " south",
    ".",
    "\n",
    "The",
    " river",
    " is",
    " ☃",
    ".",
]
SCORES = ("previous token", "duplicate token", "induction", "attention sink", "entropy")


def attention(tokens: int, seed: int = 0, sharpness: float = 2.0) -> np.ndarray:
    """(T, T): causal rows of weights that sum to 1."""
    logits = np.random.default_rng(seed).normal(size=(tokens, tokens)).astype(np.float32)
    weights = np.tril(np.exp(sharpness * logits))
    return weights / weights.sum(axis=1, keepdims=True)


def patterns(tokens: int, layers: int = 2, heads: int = 3) -> np.ndarray:
    """(L, H, T, T)"""
    return np.stack(
        [[attention(tokens, seed=heads * i + j) for j in range(heads)] for i in range(layers)]
    )


def text_content(tokens: list[str] = SENTENCE, seed: int = 0, **changes: Any) -> TextContent:
    """Two layers of three heads; the first token is not predicted."""
    random = np.random.default_rng(seed)
    count, layers, heads = len(tokens), 2, 3
    loss = random.uniform(0, 9, count)
    loss[0] = np.nan

    def guesses() -> list[tuple[str, float]]:
        shares = np.sort(random.dirichlet(np.ones(6)))[::-1]
        return [
            (tokens[i], float(p)) for i, p in zip(random.choice(count, 5), shares, strict=False)
        ]

    parts = ["embed"]
    for layer in range(layers):
        parts += [f"blocks.{layer}.attention.heads[{head}]" for head in range(heads)]
        parts += [f"blocks.{layer}.mlp.out"]
    values: dict[str, Any] = {
        "title": "run k3v9x2mq (lumiere-1m), checkpoint best",
        "facts": {"model": "Lumiére", "parameters": "1,053,824"},
        "tokens": tokens,
        "loss": loss,
        "guesses": [guesses() for _ in range(count)],
        "scores": {name: random.random((layers, heads)) for name in SCORES},
        "lens": [[guesses()[0] for _ in range(count)] for _ in range(layers + 1)],
        "lens_rows": ["embed", "blocks.0.residual", "blocks.1.residual"],
        "parts": parts,
        "attribution": random.normal(size=(len(parts), count)),
    }
    if "maps" not in changes:
        pattern = patterns(count, layers, heads)
        values["maps"] = [[head_map(each) for each in layer] for layer in pattern]
    return TextContent(**(values | changes))


def visible(token: str) -> str:
    """A token as shown on the page."""
    return token.replace(" ", "·").replace("\n", "⏎")
