"""A browser that opens pages from disk, without a network."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One per module, since its event loop interferes with other tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium is not installed (Debian: apt install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (pip install playwright)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def expect(browser: Any) -> Any:
    """Playwright's retrying assertions."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)  # as long as its other waits; a busy machine draws late
    return expect


def missing(reason: str) -> None:
    """Without a browser the pages are not tested: no reason to fail, but where all must be."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[OpenPage]:
    """``open_page(html, **options of the browser's context)``: the page, drawn.

    At the end of the test it must have asked for nothing but its own file, without complaints.
    """
    opened = []

    def open_(html: str, **options: Any) -> Any:
        path = tmp_path / f"{len(opened)}.html"
        path.write_text(html, encoding="utf-8")
        settings = {"viewport": {"width": 1280, "height": 1000}, "reduced_motion": "reduce"}
        context = browser.new_context(offline=True, **(settings | options))
        page = context.new_page()
        heard: list[str] = []
        own = (path.as_uri(), "data:,")
        page.on("request", lambda request: request.url in own or heard.append(request.url))
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        opened.append((context, heard))
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-state=ready]")
        return page

    yield open_
    for context, heard in opened:
        context.close()
        assert not heard
