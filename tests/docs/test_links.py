"""Links between pages lead somewhere, and names in the reference are there."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from documentation import PAGES, ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))


def anchor(heading: str) -> str:
    """The anchor of a heading, as mkdocs and GitHub make it for plain words."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in _LINK.findall(text):
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if fragment:
            assert fragment in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """Leaves tags of Python, which name functions of mkdocs' extensions, unread."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    content = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    named = set(re.findall(r"[\w/-]+\.md", str(content["nav"])))
    docs = ROOT / "docs"
    assert named == {str(page.relative_to(docs)) for page in docs.rglob("*.md")}


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_names_in_the_reference_exist(page: Path) -> None:
    names = re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute).__doc__
