"""Escape outside names for Markdown.

Names of folders, recipes, tokens and hub datasets may contain anything; escaped, they cannot end a
line, a table cell, a code span or a fence, nor start markup.
"""

import re
from typing import Any

from lumenspark.errors import printable, shortened

LONGEST_NAME = 200  # characters
# Markup, autolinks, and underscores at word boundaries.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=\S)@(?=\S)|(?<=www)\.", re.IGNORECASE
)


def text(name: Any) -> str:
    """A name as plain text, for a line, a heading, a link or a table cell.

    Markup characters become character references (``&#124;``), which Markdown never interprets.
    """
    shown = _shown(name)
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", shown)


def code(name: Any, cell: bool = False) -> str:
    """A name as a code span, or as plain text if a span cannot hold it.

    ``cell``: for a table, where a bar ends a cell even in code.
    """
    shown = _shown(name)
    if "`" in shown or shown != shown.strip() or (cell and "|" in shown):
        return text(name)
    return f"`{shown}`"


def fenced(content: str, language: str) -> str:
    """A code block, with a fence longer than any in the content."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def _shown(name: Any) -> str:
    """One line of bounded length, never empty."""
    return printable(shortened(str(name), LONGEST_NAME)) or "(no name)"
