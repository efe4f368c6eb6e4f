"""Reject a tokenizer.json whose settings would blow up a short text.

Encoding with such a tokenizer can take minutes or all memory, so only its settings are inspected.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

MOST_GROWTH = 1000  # characters per rewritten character; common tokenizers: 1 to 4
LONGEST_STRING = 1000  # characters of a string setting; common tokenizers: 1
LONGEST_TOKEN = 10_000  # characters; runs of spaces have a few hundred
MOST_SPECIAL = 1000  # special tokens around a text; common tokenizers: up to 4
REWRITES = ("normalizer", "pre_tokenizer", "decoder")
# Settings without strings that are added to a text, or checked separately.
SKIPPED_KEYS = {"vocab", "merges", "added_tokens", "pattern", "precompiled_charsmap"}


def check_growth(content: dict[str, Any]) -> None:
    """Raise ValueError for the content of such a tokenizer.json.

    Regular expressions are not checked: some are slow on some texts.
    """
    for name in REWRITES:
        growth = prod(_growth(part) for part in _parts(content.get(name)))
        if growth > MOST_GROWTH:
            raise ValueError(f"its {name} can lengthen a text {growth:,.0f} times")
    longest = max(map(len, _strings(content)), default=0)
    if longest > LONGEST_STRING:
        raise ValueError(f"it has a string setting of {longest:,} characters")
    longest = max(map(len, _tokens(content)), default=0)
    if longest > LONGEST_TOKEN:
        raise ValueError(f"it has a token of {longest:,} characters")
    special = _special_tokens(content.get("post_processor"))
    if special > MOST_SPECIAL:
        raise ValueError(f"it adds {special:,} special tokens to a text")


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """The rewriting steps in order, those inside sequences included."""
    if isinstance(value, dict):
        inner = [value[key] for key in ("normalizers", "pretokenizers", "decoders") if key in value]
        if not inner:
            yield value
        for part in inner:
            yield from _parts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _parts(part)


def _growth(part: dict[str, Any]) -> float:
    """The factor by which ``Replace`` can lengthen a text; 1 for other steps."""
    content, pattern = part.get("content"), part.get("pattern")
    if part.get("type") != "Replace" or not isinstance(content, str):
        return 1.0
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(literal, str) and literal:
        return max(1.0, len(content) / len(literal))
    return 1.0 + len(content)  # a regex may match between any two characters


def _strings(value: Any) -> Iterator[str]:
    """All strings in the settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in SKIPPED_KEYS:
                yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _tokens(content: dict[str, Any]) -> Iterator[str]:
    """All tokens: of a vocabulary (mapping to ids or list with scores), and added tokens."""
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    for entry in vocabulary if isinstance(vocabulary, dict | list) else []:
        token = entry[0] if isinstance(entry, list) and entry else entry
        if isinstance(token, str):
            yield token
    for entry in added if isinstance(added, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            yield entry["content"]


def _special_tokens(value: Any) -> int:
    """Upper bound of the ids that a template adds, as if each entry were the longest."""
    if isinstance(value, list):
        return sum(map(_special_tokens, value))
    if not isinstance(value, dict):
        return 0
    around = sum(_special_tokens(part) for part in value.get("processors") or [])
    templates = [len(value[key]) for key in ("single", "pair") if isinstance(value.get(key), list)]
    named = value.get("special_tokens")
    tokens = list(named.values()) if isinstance(named, dict) else []
    ids = [len(t["ids"]) for t in tokens if isinstance(t, dict) and isinstance(t.get("ids"), list)]
    return around + max(templates, default=0) * max(ids, default=1)
