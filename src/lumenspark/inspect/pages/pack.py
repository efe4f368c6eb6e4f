"""Content to compact JSON: numbers and words, deflated and base64-encoded."""

import base64
import json
import zlib
from typing import Any

import numpy as np

from lumenspark.inspect.pages.content import (
    LEVELS,
    OVERVIEW,
    Curve,
    Guess,
    HeadMap,
    TextContent,
    whole_levels,
)

_TYPES = {"u1": np.uint8, "i4": np.int32, "f4": np.float32}


def pack_text(content: TextContent) -> dict[str, Any]:
    """All of ``content`` except its facts, in the format that ``pack.js`` reads."""
    packed: dict[str, Any] = {
        "title": content.title,
        "tokens": _json(content.tokens),
        "loss": _array(content.loss, "f4"),
        "guesses": _guesses(content.guesses),
    }
    if content.maps:
        packed["maps"] = _maps(content.maps)
    if content.scores:
        packed["scores"] = pack_scores(content.scores)
    if content.lens:
        packed["lens"] = {"rows": content.lens_rows, "guesses": _lens(content.lens)}
    if content.attribution is not None:
        packed["attribution"] = {
            "parts": content.parts,
            "values": _array(content.attribution, "f4"),
        }
    if content.slots and any(content.slots):
        packed["slots"] = _json(_rounded(content.slots))
    return packed


def pack_scores(scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [{"name": name, "values": _array(values, "f4")} for name, values in scores.items()]


def pack_series(series: dict[str, dict[str, Curve]]) -> list[dict[str, Any]]:
    return [
        {
            "name": group,
            "curves": [
                {
                    "name": name,
                    "steps": _array(np.asarray(steps), "f4"),
                    "values": _array(np.asarray(values), "f4"),
                }
                for name, (steps, values) in curves.items()
            ],
        }
        for group, curves in series.items()
    ]


def pack_comparison(ranges: np.ndarray, left: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    return {
        "ranges": _array(ranges, "i4"),
        "left": _array(left, "f4"),
        "right": _array(right, "f4"),
    }


def script_json(value: Any) -> str:
    """``value`` as JSON that is safe inside ``<script>``: ASCII without <, > and &."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _maps(maps: list[list[HeadMap]]) -> dict[str, Any]:
    """The overviews as one array; whole maps separately, unpacked when opened."""
    tokens = maps[0][0].tokens
    overviews = np.stack([[head.overview for head in layer] for layer in maps])
    whole = {
        f"{depth}.{index}": _array(head.whole, "u1")
        for depth, layer in enumerate(maps)
        for index, head in enumerate(layer)
        if head.whole is not None
    }
    return {
        "tokens": tokens,
        "blocks": min(tokens, OVERVIEW),
        "levels": LEVELS,
        "wholeLevels": whole_levels(tokens),
        "overviews": _array(overviews, "u1"),
        "whole": whole,
    }


def _guesses(lists: list[list[Guess]]) -> dict[str, Any]:
    """Distinct words, and two arrays (T, G); shorter lists are padded with word -1."""
    words = {word: index for index, word in enumerate({w: 0 for row in lists for w, _ in row})}
    shape = (len(lists), max(map(len, lists)))
    ids, probabilities = np.full(shape, -1), np.zeros(shape)
    for t, row in enumerate(lists):
        for place, (word, probability) in enumerate(row):
            ids[t, place], probabilities[t, place] = words[word], probability
    return {
        "words": _json(list(words)),
        "ids": _array(ids, "i4"),
        "probabilities": _array(probabilities, "f4"),
    }


def _lens(rows: list[list[Guess]]) -> dict[str, Any]:
    """As guesses: (rows, T), where each row is a list of T guesses."""
    return _guesses(rows)


def _rounded(slots: list[list[list[list[tuple[int, float]]]]]) -> list[Any]:
    return [
        [[[[p, round(float(s), 4)] for p, s in slot] for slot in head] for head in layer]
        for layer in slots
    ]


def _array(values: np.ndarray, kind: str) -> dict[str, Any]:
    """Little-endian numbers in row-major order."""
    array = np.ascontiguousarray(values, dtype=np.dtype(_TYPES[kind]).newbyteorder("<"))
    return {"kind": kind, "shape": list(array.shape), "data": _deflated(array.tobytes())}


def _json(value: Any) -> dict[str, Any]:
    # ASCII: lone surrogates, which some tokenizers produce, cannot be encoded in UTF-8.
    return {"kind": "json", "data": _deflated(json.dumps(value).encode())}


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, level=6)).decode()
