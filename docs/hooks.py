"""Hooks of the site's build: links out of docs/, and cross-references in docstrings."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>[.~]?")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Files beside docs/ are not part of the site: their paths are printed instead of a link."""
    return _OUTSIDE.sub(r"\1 (`\2`)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx roles in docstrings (``:func:`load```) leave the code that they mark."""
    return _ROLE.sub("<code>", html)
