"""Pages that show what a model does: one HTML file each, which needs nothing but a browser."""

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
