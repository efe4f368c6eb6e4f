"""Content to one HTML file: markup, styles, script and data, with no external resources."""

import base64
import hashlib
from dataclasses import replace
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from lumenspark.inspect.pages.compare import compare
from lumenspark.inspect.pages.content import CompareContent, HeadsContent, TextContent
from lumenspark.inspect.pages.pack import (
    pack_comparison,
    pack_scores,
    pack_series,
    pack_text,
    script_json,
)

# In order of dependency.
_SCRIPTS = (
    "dom.js",
    "pack.js",
    "colour.js",
    "shown.js",
    "blocks.js",
    "strip.js",
    "text.js",
    "grid.js",
    "readout.js",
    "map.js",
    "lens.js",
    "scores.js",
    "attribution.js",
    "slots.js",
    "curves.js",
    "compare.js",
    "main.js",
)


def render_text_page(content: TextContent) -> str:
    """One text: tokens by loss, attention maps, logit lens, scores, attribution, slots."""
    return _page(content.title, _facts(content.facts), {"kind": "text", "text": pack_text(content)})


def render_heads_page(content: HeadsContent) -> str:
    """The scores of all heads, and metrics from training."""
    data = {
        "kind": "heads",
        "scores": pack_scores(content.scores),
        "series": pack_series(content.series),
    }
    return _page(content.title, _facts(content.facts), data)


def render_compare_page(content: CompareContent) -> str:
    """Two models on one text: difference in loss, scores and maps of both.

    Raises ValueError if their texts differ.
    """
    result = compare(content)
    overall = [None if value != value else value for value in result.overall]
    data = {
        "kind": "compare",
        "texts": [pack_text(_compared(side)) for side in (content.left, content.right)],
        "comparison": pack_comparison(result.ranges, result.left, result.right),
        "overall": overall,
        "unit": result.unit,
    }
    return _page(content.title, _two_columns(content.left, content.right), data)


def _compared(text: TextContent) -> TextContent:
    """``text`` without the sections that a comparison does not show."""
    return replace(text, lens=[], lens_rows=[], parts=[], attribution=None, slots=None)


def notebook_html(page: str, height: int = 720) -> str:
    """A page for ``_repr_html_``, in a frame isolated from the notebook's styles and scripts.

    ``height`` is in CSS pixels.
    """
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" width="100%" '
        f'height="{height}" style="border: 0" title="Model inspection"></iframe>'
    )


def _page(title: str, facts: str, data: dict[str, Any]) -> str:
    style, script = _style(), _script()
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(_source("page.html")).substitute(
        policy=policy,
        title=_escaped(title),
        facts=facts,
        style=style,
        script=script,
        data=script_json(data),
    )


def _facts(facts: dict[str, str]) -> str:
    rows = (
        f"<div><dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{"".join(rows)}</dl>' if facts else ""


def _two_columns(left: TextContent, right: TextContent) -> str:
    names = dict.fromkeys([*left.facts, *right.facts])
    rows = (
        f'<tr><th scope="row">{_escaped(name)}</th>'
        f"<td>{_escaped(left.facts.get(name, '–'))}</td>"
        f"<td>{_escaped(right.facts.get(name, '–'))}</td></tr>"
        for name in names
    )
    return (
        '<table class="facts-of-two"><thead><tr><td></td>'
        f'<th scope="col"><b>A</b> {_escaped(left.title)}</th>'
        f'<th scope="col"><b>B</b> {_escaped(right.title)}</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _escaped(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode())


@cache
def _style() -> str:
    return _source("page.css")


@cache
def _script() -> str:
    """All files inside one function, which keeps their names out of the global scope."""
    parts = "\n".join(_source(name) for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n\n{parts}\n}})();\n'


def _source(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The hash by which a content security policy allows an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
