"""Names from outside in Markdown: whatever they hold, they are text there.

A name may be that of a folder, a recipe, a token or a hub set, or stand in an edited file. Here
nothing of it can end a line, a table's cell, a code span or a fence, nor begin anything.
"""

import re
from typing import Any

from lumenspark.errors import printable, shortened

LONGEST_NAME = 200  # characters
# Markup; what turns into a link by itself; and an underscore that is not inside a word.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=\S)@(?=\S)|(?<=www)\.", re.IGNORECASE
)


def text(name: Any) -> str:
    """A name as plain text, in a line, a heading, a link or a table's cell.

    What could be taken for markup is written as a character reference (``&#124;``), which Markdown
    never takes for structure.
    """
    shown = _shown(name)
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", shown)


def code(name: Any, cell: bool = False) -> str:
    """A name as a code span; as plain text where no span can hold it.

    ``cell``: it stands in a table, where a bar ends a cell even in code.
    """
    shown = _shown(name)
    if "`" in shown or shown != shown.strip() or (cell and "|" in shown):
        return text(name)
    return f"`{shown}`"


def fenced(content: str, language: str) -> str:
    """A block of code, whose fence is longer than all that is in it."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def _shown(name: Any) -> str:
    """One line of a bounded length, and never empty."""
    return printable(shortened(str(name), LONGEST_NAME)) or "(no name)"
