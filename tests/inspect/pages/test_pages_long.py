"""A page of 4,096 tokens: small, few DOM elements at once, and exact."""

import math
from typing import Any

import numpy as np
import pytest
from page_contents import attention, text_content

from lumenspark.inspect.pages import head_map, render_text_page

T = 4096
LAYERS, HEADS = 4, 4


@pytest.fixture(scope="module")
def noisy() -> np.ndarray:
    """Weights that hardly compress: (T, T)."""
    return attention(T, seed=7, sharpness=1.0)


@pytest.fixture(scope="module")
def html(noisy: np.ndarray) -> str:
    """Sixteen heads, 0.1 and 1.3 at full resolution."""
    whole, pooled = head_map(noisy, whole=True), head_map(noisy)
    maps = [[pooled] * HEADS for _ in range(LAYERS)]
    maps[0][1] = maps[1][3] = whole
    tokens = [f" {i}" if i % 20 else "\n" for i in range(T)]
    scores = {"induction": np.eye(4)}
    return render_text_page(text_content(tokens, maps=maps, scores=scores))


@pytest.fixture
def page(open_page: Any, html: str) -> Any:
    return open_page(html)


def test_size(html: str, noisy: np.ndarray) -> None:
    """Below 15 MB, even with five full-resolution heads of noise."""
    assert len(html.encode()) < 7_000_000


def test_few_elements_at_once(page: Any, expect: Any) -> None:
    count = "document.querySelectorAll('*').length"
    assert page.evaluate(count) < 6000
    for selector in (".strip", ".lens"):
        box = page.locator(selector)
        blocks = box.evaluate("box => box.children.length")
        near_end = box.locator(f"> :nth-child({blocks - 1})")
        expect(near_end).to_be_empty()
        near_end.scroll_into_view_if_needed()
        expect(near_end).not_to_be_empty()
        # The first holds what is chosen; the second is out of sight, and emptied again.
        expect(box.locator("> :nth-child(2)")).to_be_empty()
    assert page.evaluate(count) < 6000


def test_text_by_keyboard_to_its_end(page: Any) -> None:
    page.locator(".token[data-token='1']").focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.token") == str(T - 1)
    assert f"token {T - 1} of {T}" in page.locator(".detail").inner_text()
    assert page.locator("td.guess[data-row='0'].chosen").get_attribute("data-token") == str(T - 1)


def readout(page: Any) -> tuple[int, int, float]:
    """The query, key and weight at the cursor of the large map."""
    names = page.locator(".readout dt").all_inner_texts()
    weight = page.locator(".readout .weight").inner_text()
    return int(names[0].split()[1]), int(names[1].split()[1]), float(weight.lstrip("<"))


def open_head(page: Any, layer: int, head: int, expect: Any) -> None:
    page.locator(f".head-map[data-layer='{layer}'][data-head='{head}']").click()
    expect(page.locator(".map-frame canvas")).to_have_js_property("width", 1024)


def test_whole_head(page: Any, noisy: np.ndarray, expect: Any) -> None:
    open_head(page, 1, 3, expect)
    box = page.locator(".map-frame").bounding_box()
    seen = set()
    for across, down in [(0.3, 0.6), (0.05, 0.07), (0.5, 0.99)]:
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        query, key, shown = readout(page)
        assert query == pytest.approx(down * T, abs=T / box["width"] + 1)
        assert key == pytest.approx(across * T, abs=T / box["width"] + 1)
        weight = noisy[query, key]
        assert shown == pytest.approx(weight, abs=math.sqrt(weight) / 63 + 1 / 63**2)
        seen.add((query, key))
    assert len(seen) == 3


def test_zoom_and_move(page: Any, expect: Any) -> None:
    open_head(page, 0, 1, expect)
    box = page.locator(".map-frame").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    query, key, _ = readout(page)
    for _ in range(7):
        page.keyboard.press("+")
    rows = page.locator(".map-left .label[data-position]")
    positions = [int(row.get_attribute("data-position")) for row in rows.all()]
    assert positions == list(range(positions[0], positions[0] + 32))
    assert query in positions  # what the cursor is on is still in sight
    assert rows.first.inner_text() == (f"·{positions[0]}" if positions[0] % 20 else "⏎")
    for _ in range(40):
        page.keyboard.press("ArrowUp")
    assert readout(page)[:2] == (query - 40, key)
    assert page.locator(".map-left .current[data-position]").count() == 1
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    start = readout(page)[:2]
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 150, steps=4)  # the map goes with the pointer
    page.mouse.up()
    assert readout(page)[:2] == start
    page.keyboard.press("0")
    assert page.locator(".map-left .label[data-position='0']").count() == 1


def test_pooled_head(page: Any, noisy: np.ndarray, expect: Any) -> None:
    open_head(page, 2, 2, expect)
    assert "up to 16 × 16 weights" in page.locator("dialog").inner_text()
    box = page.locator(".map-frame").bounding_box()
    page.mouse.move(box["x"] + 0.02 * box["width"], box["y"] + 0.03 * box["height"])
    query, key, shown = readout(page)
    top, left = query // 16 * 16, key // 16 * 16
    largest = noisy[top : top + 16, left : left + 16].max()
    assert shown == pytest.approx(largest, abs=math.sqrt(largest) / 255 + 1 / 255**2 + 1e-4)
    row = [noisy[top : top + 16, k : k + 16].max() for k in range(0, query + 1, 16)]
    first = 16 * int(np.argmax(row))
    names = page.locator(".readout tbody th").all_inner_texts()
    assert f"tokens {first}–{min(first + 15, query)}" in names[:2]  # two may be of one level


def test_printed_lens_is_the_part_around_the_chosen_token(page: Any, expect: Any) -> None:
    page.locator(".token[data-token='1']").focus()
    page.keyboard.press("End")
    page.emulate_media(media="print")
    page.wait_for_selector(".print-only:has-text('are printed')")
    assert f"Tokens {T - 128} to {T - 1} of {T}" in page.locator(".print-only").inner_text()
    expect(page.locator(".token")).to_have_count(T)
    page.emulate_media(media="screen")
    expect(page.locator(".print-only")).to_be_empty()
    assert page.locator(".lens > *").count() > 300
