"""What the tests of data/ share. No test here uses the network or this user's cache."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LUMENSPARK_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def wikitext_2() -> Path:
    """The folder with WikiText-2 raw, which is not part of this repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("LUMENSPARK_TEST_DATA", beside)) / "wikitext-2-raw"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set LUMENSPARK_TEST_DATA to where wikitext-2-raw lies")
    return folder


ARTICLES = (
    " \n = Oak = \n \n The oak is a tree .\n It bears acorns , and its wood is hard .\n"
    " \n = = Uses = = \n \n Ships were built of oak .\n \n = = = Barrels = = = \n \n"
    " Wine is kept in oak .\n \n = Elm = \n \n The elm is a tree too .\n"
    " = 3 = \n is what remains when nothing else does .\n \n"
)


@pytest.fixture(scope="session")
def articles_text() -> str:
    """Two articles in the WikiText layout, with a line in the second that looks like a title."""
    return ARTICLES
