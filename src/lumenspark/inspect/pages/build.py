"""Page content from a model and a text."""

from collections.abc import Collection, Mapping
from math import exp
from typing import Any

import numpy as np
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.attribution import attribution
from lumenspark.inspect.heads import entropy, head_scores
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.inputs import Text, token_pieces
from lumenspark.inspect.logit_lens import LogitLens, logit_lens
from lumenspark.inspect.pages.content import (
    Curve,
    Guess,
    HeadMap,
    HeadsContent,
    Share,
    TextContent,
    head_map,
)
from lumenspark.inspect.ranks import effective_ranks, slot_contents
from lumenspark.inspect.trace import Trace, trace

GUESSES = 5  # shown for each token
Head = tuple[int, int]  # layer, head


def text_content(
    model: Any,
    text: Text,
    title: str,
    *,
    tokenizer: Any = None,
    whole: Collection[Head] = (),
) -> TextContent:
    """Content of a page about one text. ``whole``: heads whose maps keep full resolution.

    Raises UserError for several texts, and for a head that does not exist.
    """
    sizes = architecture_of(model).sizes
    for layer, head in whole:
        if not (0 <= layer < sizes.layers and 0 <= head < sizes.heads):
            raise UserError(
                f"there is no head {layer}.{head}: the model has {sizes.layers} layers of "
                f"{sizes.heads} heads, from 0.0 on"
            )
    lens = logit_lens(model, text, top=GUESSES, tokenizer=tokenizer)
    found = lens.trace
    if len(found.ids) != 1:
        raise UserError(f"a page shows one text, not {len(found.ids)}")
    shares = attribution(model, text, tokenizer=tokenizer)
    maps, entropies = _maps(model, text, tokenizer, whole)
    scores = {name: value.numpy() for name, value in head_scores(model).scores.items()}
    return TextContent(
        title=title,
        facts=model_facts(model) | text_facts(found),
        tokens=found.tokens[0],
        loss=found.loss[0].cpu().numpy(),
        guesses=guesses_of(lens, -1),
        maps=maps,
        scores=scores | {"entropy": entropies},
        lens=top_guesses(lens),
        lens_rows=lens.rows,
        parts=shares.parts,
        attribution=shares.values[:, 0].float().cpu().numpy(),
        slots=_slots(model, text, tokenizer) if sizes.slots else None,
    )


def heads_content(
    model: Any, title: str, series: Mapping[str, dict[str, Curve]] | None = None
) -> HeadsContent:
    """All heads of a model, scored on repeated random tokens, and metrics from its training."""
    scored = head_scores(model)
    facts = {
        "loss of random tokens": f"{scored.first_loss:.3f} nats",
        "of their repetition": f"{scored.second_loss:.3f} nats",
    }
    ranks = effective_ranks(model).values()
    facts["effective rank of its layers"] = f"{min(ranks):.0f} to {max(ranks):.0f}"
    return HeadsContent(
        title=title,
        facts=model_facts(model) | facts,
        scores={name: value.numpy() for name, value in scored.scores.items()},
        series=dict(series or {}),
    )


def _maps(
    model: Any, text: Text, tokenizer: Any, whole: Collection[Head]
) -> tuple[list[list[HeadMap]], np.ndarray]:
    """Every head's map, and the entropy (L, H) on this text. Patterns are freed layer by layer."""
    maps: list[list[HeadMap]] = []
    entropies: list[np.ndarray] = []

    def pack(pattern: Tensor, mask: Tensor | None) -> None:
        layer = len(maps)
        heads = enumerate(pattern_arrays(pattern[0]))
        maps.append([head_map(each, (layer, head) in whole) for head, each in heads])
        entropies.append(entropy(pattern).mean((0, 2)).cpu().numpy())

    layers = range(architecture_of(model).sizes.layers)
    with tensor_hooks(model, {f"blocks.{layer}.attention.pattern": pack for layer in layers}):
        trace(model, text, tokenizer=tokenizer)
    return maps, np.stack(entropies)


def pattern_arrays(pattern: Tensor) -> np.ndarray:
    """The patterns (H, T, T) of a layer, clamped to [0, 1] against rounding errors."""
    array: np.ndarray = pattern.float().clamp(0, 1).cpu().numpy()
    return array


def guesses_of(lens: LogitLens, row: int) -> list[list[Guess]]:
    """The most likely next tokens after each token with probabilities, from one row of the lens."""
    return _guesses(lens.trace.tokenizer, lens.ids[row, 0], lens.probabilities[row, 0])


def next_guesses(found: Trace) -> list[list[Guess]]:
    """The most likely next tokens after each token with probabilities, from the model's output."""
    likeliest = found.logits[0].float().softmax(-1).topk(GUESSES)
    return _guesses(found.tokenizer, likeliest.indices, likeliest.values)


def _guesses(tokenizer: Any, ids: Tensor, probabilities: Tensor) -> list[list[Guess]]:
    """``ids`` and ``probabilities`` are (T, n)."""
    return [
        list(zip(token_pieces(tokenizer, likeliest), shares, strict=True))
        for likeliest, shares in zip(ids.tolist(), probabilities.tolist(), strict=True)
    ]


def top_guesses(lens: LogitLens) -> list[list[Guess]]:
    """The most likely next token after each token with its probability, by row of the lens."""
    return [[likeliest[0] for likeliest in guesses_of(lens, row)] for row in range(len(lens.rows))]


def _slots(model: Any, text: Text, tokenizer: Any) -> list[list[list[list[Share]]]]:
    return [
        [[[(held.position, held.share) for held in slot] for slot in head] for head in layer]
        for layer in slot_contents(model, text, tokenizer=tokenizer)
    ]


def model_facts(model: Any) -> dict[str, str]:
    sizes = architecture_of(model).sizes
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {
        "model": type(model).__name__,
        "parameters": f"{parameters:,}",
        "heads": f"{sizes.layers} layers of {sizes.heads}",
    }
    if sizes.slots:
        facts["slots of each head"] = str(sizes.slots)
    return facts


def text_facts(found: Trace) -> dict[str, str]:
    facts = {"tokens": f"{found.ids.shape[1]:,}"}
    if found.ids.shape[1] > 1:
        loss = found.mean_loss
        facts["loss"] = f"{loss:.3f} nats per token"
        facts["perplexity"] = f"{exp(loss):.2f}"
    return facts
