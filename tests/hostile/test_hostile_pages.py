"""Titles, facts and tokens from outside in the pages of inspect: they are text there."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from lumenspark.files import write_file
from lumenspark.inspect.pages.build import heads_content, text_content
from lumenspark.inspect.pages.render import render_heads_page, render_text_page
from lumenspark.models import LumiereConfig, LumiereForCausalLM

TITLES = [
    "</title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</script><b>",
    "<!--",
    "${style} $script $$",
    "a\u2028b\u2029c",
    "caf\udce9",
    "\x00\x1b[31m",
    "&lt;b&gt;",
]


class Structure(HTMLParser):
    """The tags of a page with their attributes, and the text of its title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.title = ""
        self._in_title = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._in_title = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        self.title += data if self._in_title else ""


@pytest.fixture(scope="module")
def lumiere() -> LumiereForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LumiereForCausalLM(LumiereConfig(vocab_size=40, **sizes)).eval()


@pytest.mark.parametrize("title", TITLES, ids=range(len(TITLES)))
def test_titles_are_text(lumiere: LumiereForCausalLM, title: str, tmp_path: Path) -> None:
    ids = torch.arange(3, 12)[None]
    for render, content in (
        (render_heads_page, lambda name: heads_content(lumiere, name)),
        (render_text_page, lambda name: text_content(lumiere, ids, name)),
    ):
        page = render(content(title))
        assert Structure(page).tags == Structure(render(content("plain"))).tags
        write_file(tmp_path / "page.html", page)
        shown = title.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
        assert Structure(page).title.replace("\x00", "\ufffd") == shown
