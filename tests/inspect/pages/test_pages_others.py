"""The pages of all heads and of two models, in a browser."""

import math
from typing import Any

import numpy as np
import pytest
from page_contents import SENTENCE, attention, patterns, text_content, visible

from lumenspark.inspect.pages import (
    CompareContent,
    HeadsContent,
    head_map,
    render_compare_page,
    render_heads_page,
)

STEPS = [0, 200, 400, 600]
SERIES = {
    "induction": {"0.0": (STEPS, [0.0, 0.1, 0.4, 0.9]), "0.1": (STEPS, [0.0, 0.0, math.nan, 0.1])},
    "update": {"embed": (STEPS, [1e-1, 1e-2, 1e-3, 1e-5]), "layers": (STEPS[1:], [2.0, 1.0, 0.5])},
}


@pytest.fixture
def heads_page(open_page: Any) -> Any:
    scores = {"induction": np.array([[0.9, 0.1], [np.nan, 0.25]])}
    return open_page(render_heads_page(HeadsContent("latest", {"steps": "600"}, scores, SERIES)))


def test_scores_without_maps(heads_page: Any) -> None:
    table = heads_page.locator(".score-table")
    assert table.locator("td.best").inner_text() == "0.90"
    assert table.locator("tbody td").all_inner_texts() == ["0.90", "0.10", "–", "0.25"]
    assert table.locator("[tabindex]").count() == 0  # there is nothing that a cell could open


def values_of(chart: Any) -> dict[str, str]:
    script = "t => [...t.rows].map(r => [...r.cells].map(c => c.innerText.trim()))"
    return dict(chart.locator("table").evaluate(script))


def test_curves_by_keyboard(heads_page: Any) -> None:
    chart = heads_page.locator("[data-group='induction']")
    assert values_of(chart) == {"0.0": "0.9", "0.1": "0.1"}  # the last step
    chart.locator("> svg").focus()
    heads_page.keyboard.press("ArrowLeft")
    assert "at step 400" in chart.inner_text()
    assert values_of(chart) == {"0.0": "0.4", "0.1": "–"}
    heads_page.keyboard.press("Home")
    assert "at step 0" in chart.inner_text()


def test_curves_by_pointer(heads_page: Any) -> None:
    chart = heads_page.locator("[data-group='update']")
    assert "logarithmic scale" in chart.inner_text()
    box = chart.locator("> svg").bounding_box()
    heads_page.mouse.move(box["x"] + 52 / 520 * box["width"] + 2, box["y"] + 40)
    assert "at step 0" in chart.inner_text()
    assert values_of(chart) == {"embed": "0.1", "layers": "–"}  # not yet recorded then
    chart.locator("tr").first.hover()
    faint = chart.locator("path").evaluate_all("all => all.map(p => p.classList.contains('faint'))")
    assert faint == [False, True]


def test_a_curve_lies_where_its_values_are(heads_page: Any) -> None:
    path = heads_page.locator("[data-group='induction'] path").first.get_attribute("d")
    assert path.count("h0") == 1  # a dot where the curve begins, be it one of a single step
    corners = path.removeprefix("M").replace("h0", "").split("L")
    points = np.array([point.split() for point in corners], dtype=float)
    np.testing.assert_allclose(np.diff(points[:, 0]), points[1, 0] - points[0, 0], atol=0.02)
    heights = points[0, 1] - points[:, 1]
    np.testing.assert_allclose(heights / heights[-1], [0, 1 / 9, 4 / 9, 1], atol=0.001)
    broken = heads_page.locator("[data-group='induction'] path").nth(1).get_attribute("d")
    assert broken.count("M") == 2  # a gap, and no line across it


def test_only_scores(open_page: Any) -> None:
    page = open_page(render_heads_page(HeadsContent("", {}, {"induction": np.zeros((1, 1))})))
    assert page.locator("section").count() == 1


def both(**changes: Any) -> CompareContent:
    maps = [[head_map(each) for each in layer] for layer in 1 - 0.5 * patterns(12)]
    right = text_content(**({"seed": 1, "title": "the other", "maps": maps} | changes))
    return CompareContent("two models", text_content(), right)


def test_narrow_pages(open_page: Any) -> None:
    for html in (
        render_heads_page(HeadsContent("latest", {"steps": "600"}, {}, SERIES)),
        render_compare_page(both(title="a/very/long/name/of/a/folder/that/does/not/end/here")),
    ):
        page = open_page(html, viewport={"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_losses_of_both(open_page: Any) -> None:
    content = both()
    page = open_page(render_compare_page(content))
    difference = content.right.loss - content.left.loss
    page.locator(".token[data-token='4']").hover()
    detail = page.locator(".detail").inner_text()
    assert "nats per token" in detail
    assert f"A\n{content.left.loss[4]:.2f}\n" in detail
    assert f"B\n{content.right.loss[4]:.2f}\n" in detail
    assert f"{difference[4]:+.2f}".replace("-", "−") in detail
    for side in (content.left, content.right):
        assert visible(side.guesses[3][0][0]) in detail
    assert f"{difference[1:].mean():+.3f}".replace("-", "−") in page.locator(".totals").inner_text()
    assert "the other" in page.locator(".facts-of-two").inner_text()
    script = "all => all.map(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number))"
    painted = page.eval_on_selector_all(".token", script)
    for (red, _, blue, *_), value in list(zip(painted, difference, strict=True))[1:]:
        if abs(value) > 0.5:
            assert (blue > red) == (value < 0)  # blue: the right one is better


def test_maps_of_both_in_turn(open_page: Any) -> None:
    page = open_page(render_compare_page(both()))
    page.locator(".head-map[data-layer='1'][data-head='0']").click()
    page.wait_for_selector(".map-left .label")
    page.keyboard.press("Home")
    query = len(SENTENCE) - 1
    weight = patterns(12)[1, 0][query, 0]
    shown = float(page.locator(".readout .weight").inner_text())
    assert shown == pytest.approx(weight, abs=0.005)
    page.keyboard.press("x")
    assert page.locator("#map-title").inner_text() == "Layer 1 · head 0 · B"
    shown = float(page.locator(".readout .weight").inner_text())
    assert shown == pytest.approx(1 - 0.5 * weight, abs=0.005)
    page.keyboard.press("Escape")
    assert page.get_by_label("B", exact=True).is_checked()  # the small maps are the other's too
    page.get_by_label("A", exact=True).check()
    page.locator(".head-map").first.click()
    page.wait_for_selector("dialog[open]")
    assert page.locator("#map-title").inner_text() == "Layer 0 · head 0 · A"


def test_scores_of_both(open_page: Any) -> None:
    content = both()
    page = open_page(render_compare_page(content))
    tables = page.locator(".score[data-score='entropy'] table")
    assert tables.count() == 2
    for i, side in enumerate((content.left, content.right)):
        cells = [float(cell) for cell in tables.nth(i).locator("tbody td").all_inner_texts()]
        np.testing.assert_allclose(cells, side.scores["entropy"].ravel(), atol=0.0051)


def test_other_tokenizer_and_other_shape(open_page: Any, expect: Any) -> None:
    """Compared by spans; the second model has one layer of two heads, and fewer tokens."""
    tokens = ["The", " river runs", " south", ".\n", "The river", " is ☃", "."]
    one = [[head_map(attention(len(tokens), seed)) for seed in (5, 6)]]
    content = both(
        tokens=tokens,
        maps=one,
        scores={"induction": np.full((1, 2), 0.5)},
    )
    page = open_page(render_compare_page(content))
    spans = ["The", " river runs", " south", ".\n", "The river", " is ☃", "."]
    assert page.locator(".token").all_inner_texts() == [visible(text) for text in spans]
    page.locator(".token[data-token='1']").hover()
    bits = content.left.loss[2:4].sum() / math.log(2) / len(" river runs")
    assert "bits per byte" in page.locator(".detail").inner_text()
    assert f"A\n{bits:.2f}\n" in page.locator(".detail").inner_text()
    page.locator(".head-map[data-layer='1'][data-head='2']").click()
    page.wait_for_selector(".map-left .label")
    page.keyboard.press("x")
    assert page.locator("#map-title").inner_text() == "Layer 0 · head 1 · B"
    expect(page.locator(".map-frame canvas")).to_have_js_property("width", 7)
    labels = page.locator(".map-left .label[data-position]").all_inner_texts()
    assert labels == [visible(token) for token in tokens]
