"""HTML pages about a model: one self-contained file each."""

from lumenspark.inspect.pages.content import (
    CompareContent,
    HeadMap,
    HeadsContent,
    TextContent,
    head_map,
)
from lumenspark.inspect.pages.render import (
    notebook_html,
    render_compare_page,
    render_heads_page,
    render_text_page,
)

__all__ = [
    "CompareContent",
    "HeadMap",
    "HeadsContent",
    "TextContent",
    "head_map",
    "notebook_html",
    "render_compare_page",
    "render_heads_page",
    "render_text_page",
]
