"""Notebook displays: ``_repr_html_`` of traces, lenses and scores, for the first text of a batch.

Importing this module sets the methods, so that the modules of the results need no page code.
"""

from collections.abc import Callable
from html import escape
from typing import Any

from lumenspark.inspect.activation_patching import PatchingEffects
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.attribution import Attribution
from lumenspark.inspect.heads import HeadScores
from lumenspark.inspect.logit_lens import LogitLens
from lumenspark.inspect.pages.build import (
    guesses_of,
    model_facts,
    next_guesses,
    pattern_arrays,
    text_facts,
    top_guesses,
)
from lumenspark.inspect.pages.content import Guess, HeadMap, HeadsContent, TextContent, head_map
from lumenspark.inspect.pages.render import notebook_html, render_heads_page, render_text_page
from lumenspark.inspect.trace import Trace


def trace_html(found: Trace) -> str:
    """Tokens by loss, and the attention maps if the trace has the pattern of every layer."""
    return _text_html(found, next_guesses(found), maps=_maps(found))


def lens_html(lens: LogitLens) -> str:
    """Tokens by loss, and the logit lens as a table."""
    return _text_html(lens.trace, guesses_of(lens, -1), lens=top_guesses(lens), lens_rows=lens.rows)


def attribution_html(shares: Attribution) -> str:
    """Tokens by loss, and the contributions as bars."""
    values = shares.values[:, 0].float().cpu().numpy()
    guesses = next_guesses(shares.trace)
    return _text_html(shares.trace, guesses, parts=shares.parts, attribution=values)


def scores_html(scored: HeadScores) -> str:
    """All scores of all heads."""
    scores = {name: value.numpy() for name, value in scored.scores.items()}
    return notebook_html(render_heads_page(HeadsContent("Head scores", {}, scores)))


def effects_html(found: PatchingEffects) -> str:
    """A table, layer by column: blue restores the clean prediction, orange opposes it."""
    heading = "".join(f"<th>{escape(column)}</th>" for column in found.columns)
    rows = "".join(
        f"<tr><th>layer {layer}</th>{''.join(map(_effect_cell, effects))}</tr>"
        for layer, effects in enumerate(found.effects.tolist())
    )
    caption = f"{escape(found.tensor)}: share of the clean logit difference restored"
    return f"<table><caption>{caption}</caption><tr><th></th>{heading}</tr>{rows}</table>"


def _effect_cell(effect: float) -> str:
    colour = "0, 114, 178" if effect > 0 else "213, 94, 0"
    shade = f"rgba({colour}, {min(1.0, abs(effect)) * 0.5:.2f})"
    return f'<td style="background: {shade}">{effect:.2f}</td>'


def _text_html(found: Trace, guesses: list[list[Guess]], **parts: Any) -> str:
    content = TextContent(
        title=type(found.model).__name__,
        facts=model_facts(found.model) | text_facts(found),
        tokens=found.tokens[0],
        loss=found.loss[0].cpu().numpy(),
        guesses=guesses,
        **parts,
    )
    return notebook_html(render_text_page(content))


def _maps(found: Trace) -> list[list[HeadMap]]:
    layers = architecture_of(found.model).sizes.layers
    names = [f"blocks.{layer}.attention.pattern" for layer in range(layers)]
    if not all(name in found.tensors for name in names):
        return []
    return [[head_map(each) for each in pattern_arrays(found[name][0])] for name in names]


def _display(result: type, to_html: Callable[[Any], str], method: str = "_repr_html_") -> None:
    setattr(result, method, to_html)


_display(Trace, trace_html)
_display(LogitLens, lens_html)
_display(Attribution, attribution_html)
_display(HeadScores, scores_html)
_display(PatchingEffects, effects_html)
