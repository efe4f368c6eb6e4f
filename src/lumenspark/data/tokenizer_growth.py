"""Whether a tokenizer.json from outside makes a short text enormous: by its settings alone.

Encoding a few words with one that does takes minutes or all of the memory, so nothing is encoded
to find out.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

MOST_GROWTH = 1000  # characters that a rewritten character may become; tokenizers in use: 1 to 4
LONGEST_STRING = 1000  # characters that a setting may add; tokenizers in use: 1
LONGEST_TOKEN = 10_000  # characters; runs of spaces have a few hundred
MOST_SPECIAL = 1000  # tokens around a text; tokenizers in use: up to 4
REWRITES = ("normalizer", "pre_tokenizer", "decoder")
# What adds nothing to a text, or is looked at by itself.
PASSED_OVER = {"vocab", "merges", "added_tokens", "pattern", "precompiled_charsmap"}


def check_growth(content: dict[str, Any]) -> None:
    """Raises ValueError, which says what grows, for the content of a tokenizer.json.

    Patterns are not looked into: one may take very long on some texts.
    """
    for name in REWRITES:
        growth = prod(_growth(part) for part in _parts(content.get(name)))
        if growth > MOST_GROWTH:
            raise ValueError(f"its {name} can make a text {growth:,.0f} times as long")
    longest = max(map(len, _strings(content)), default=0)
    if longest > LONGEST_STRING:
        raise ValueError(f"a setting of it is a string of {longest:,} characters")
    longest = max(map(len, _tokens(content)), default=0)
    if longest > LONGEST_TOKEN:
        raise ValueError(f"a token of it has {longest:,} characters")
    special = _special_tokens(content.get("post_processor"))
    if special > MOST_SPECIAL:
        raise ValueError(f"it puts {special:,} special tokens around a text")


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """The rewriting steps one after another, those inside sequences too."""
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
    """How many times as long ``Replace`` can make a text; 1 for other steps."""
    content, pattern = part.get("content"), part.get("pattern")
    if part.get("type") != "Replace" or not isinstance(content, str):
        return 1.0
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(literal, str) and literal:
        return max(1.0, len(content) / len(literal))
    return 1.0 + len(content)  # a regular expression may match between any two characters


def _strings(value: Any) -> Iterator[str]:
    """Every string among the settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in PASSED_OVER:
                yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _tokens(content: dict[str, Any]) -> Iterator[str]:
    """Every token: of a vocabulary that maps them to ids or lists them with scores, and added."""
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
    """How many ids a template puts around a text at most, as if each entry named the longest."""
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
