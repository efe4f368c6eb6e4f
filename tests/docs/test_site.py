"""The site of the documentation builds without a warning, and its pages load nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT

pytest.importorskip("mkdocs", reason="the site needs the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_load_nothing_from_a_network(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//|@import")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not loads.search(text), page
        for link in re.findall(r"<link[^>]+>", text):
            assert "://" not in link or 'rel="canonical"' in link, f"{page}: {link}"


def test_the_reference_has_signatures_and_docstrings(site: Path) -> None:
    page = (site / "reference" / "lumenspark.html").read_text(encoding="utf-8")
    assert "model_name" in page or "trust_remote_code" in page
    assert ":func:" not in page
    assert ":class:" not in page
