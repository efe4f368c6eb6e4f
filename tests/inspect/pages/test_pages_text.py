"""The page of a text, in a browser: shown values equal the content."""

import math
import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from page_contents import EVIL, SENTENCE, patterns, text_content, visible

from lumenspark.inspect.pages import head_map, notebook_html, render_text_page

T = len(SENTENCE)


@pytest.fixture(scope="module")
def content() -> Any:
    return text_content()


@pytest.fixture(scope="module")
def html(content: Any) -> str:
    return render_text_page(content)


@pytest.fixture
def page(open_page: Any, html: str) -> Any:
    return open_page(html)


def token(page: Any, t: int) -> Any:
    return page.locator(f".token[data-token='{t}']")


def luminance(colour: str) -> float:
    """WCAG's relative luminance of ``rgb(r, g, b)``."""
    shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colours(page: Any, selector: str) -> list[tuple[str, str]]:
    """Background and text colour of each element."""
    script = "all => all.map(e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color])"
    return [tuple(pair) for pair in page.eval_on_selector_all(selector, script)]


def rows_of(table: Any) -> list[list[str]]:
    return table.evaluate("t => [...t.rows].map(r => [...r.cells].map(c => c.innerText.trim()))")


def percent(probability: float) -> float:
    return pytest.approx(100 * probability, rel=0.01)


def test_tokens_stand_as_they_are(page: Any) -> None:
    assert page.locator(".token").all_inner_texts() == [visible(piece) for piece in SENTENCE]
    assert page.locator("h1").inner_text() == "run k3v9x2mq (lumiere-1m), checkpoint best"
    assert "1,053,824" in page.locator(".facts").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_tell_the_loss_and_can_be_read(
    open_page: Any, html: str, content: Any, scheme: str
) -> None:
    page = open_page(html, color_scheme=scheme)
    painted = colours(page, ".token")
    order = np.argsort(content.loss[1:]) + 1
    brightness = [luminance(painted[t][0]) for t in order]
    assert brightness == sorted(brightness, reverse=scheme == "light")
    everything = painted[1:] + colours(page, "td.guess") + colours(page, ".score-table td")
    assert min(contrast(*pair) for pair in everything) >= 4.5
    (body,) = colours(page, "body")
    muted = colours(page, ".intro, .muted, .legend, dt, nav a, caption")
    assert min(contrast(body[0], text) for _, text in [body, *muted]) >= 4.5
    assert (luminance(body[0]) > 0.5) == (scheme == "light")


@pytest.mark.parametrize("t", [1, 4, T - 1])
def test_pointing_at_a_token(page: Any, content: Any, t: int) -> None:
    token(page, t).hover()
    detail = page.locator(".detail")
    loss = content.loss[t]
    assert f"{loss:.2f} nats" in detail.inner_text()
    shown = re.search(r"probability\s+([\d.]+)%", detail.inner_text())
    assert shown is not None
    assert float(shown[1]) == percent(math.exp(-loss))
    for place, guesses in enumerate((content.guesses[t - 1], content.guesses[t])):
        rows = rows_of(detail.locator("table").nth(place))
        assert len(rows) == len(guesses)
        for (name, _, shown_share), (word, probability) in zip(rows, guesses, strict=True):
            assert name.removesuffix(" ✓") == visible(word)
            assert float(shown_share.rstrip("%")) == percent(probability)
            came = content.tokens[t] if place == 0 else [*content.tokens, None][t + 1]
            assert name.endswith(" ✓") == (word == came)


def test_the_first_token_was_not_predicted(page: Any) -> None:
    token(page, 0).hover()
    assert "No prediction: this is the beginning" in page.locator(".detail").inner_text()
    page.locator("h1").hover()  # away: the chosen token is shown again
    assert "token 1 of 12" in page.locator(".detail").inner_text()


def test_text_by_keyboard(page: Any) -> None:
    token(page, 1).focus()
    for key, chosen in [("ArrowRight", 2), ("End", T - 1), ("ArrowLeft", T - 2), ("Home", 0)]:
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.token") == str(chosen)
        assert f"token {chosen} of" in page.locator(".detail").inner_text()
    page.keyboard.press("ArrowDown")  # the sentence goes on in a second line, after its line end
    assert token(page, 7).get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowUp")
    assert token(page, 0).get_attribute("aria-selected") == "true"
    assert page.locator(".token[tabindex='0']").count() == 1


def point_at_weight(page: Any, query: int, key: int, tokens: int = T) -> None:
    box = page.locator(".map-frame").bounding_box()
    cell = box["width"] / tokens
    page.mouse.move(box["x"] + (key + 0.5) * cell, box["y"] + (query + 0.5) * cell)


def test_map_shows_the_weights(page: Any) -> None:
    page.locator(".head-map[data-layer='1'][data-head='2']").click()
    assert page.locator("#map-title").inner_text() == "Layer 1 · head 2"
    pattern = patterns(T)[1, 2]
    for query, key in [(0, 0), (3, 1), (7, 7), (T - 1, 0), (T - 1, T - 2)]:
        point_at_weight(page, query, key)
        readout = page.locator(".readout").inner_text()
        assert f"query {query}\n" in readout
        assert f"key {key}\n" in readout
        weight = pattern[query, key]
        shown = float(page.locator(".readout .weight").inner_text())
        assert shown == pytest.approx(weight, abs=math.sqrt(weight) / 255 + 1 / 255**2 + 5e-4)
        strongest = rows_of(page.locator(".readout table"))
        assert strongest[0][0].endswith(f" {pattern[query].argmax()}")
    point_at_weight(page, 2, 5)
    assert "the key comes after the query" in page.locator(".readout").inner_text()


def test_map_has_tokens_on_both_sides(page: Any) -> None:
    page.locator(".head-map").first.click()
    for side in (".map-left", ".map-top"):
        labels = page.locator(f"{side} .label[data-position]").all_inner_texts()
        assert labels == [visible(piece) for piece in SENTENCE]
    page.locator(".map-left .label[data-position='4']").hover()
    assert "query 4" in page.locator(".readout").inner_text()
    assert "current" in page.locator(".map-left .label[data-position='4']").get_attribute("class")


def drawn(page: Any) -> np.ndarray:
    """The pixels of the large map: (T, T, 4)."""
    script = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    return np.array(page.locator(".map-frame canvas").evaluate(script)).reshape(T, T, 4)


def test_map_is_drawn_weight_by_weight(page: Any, expect: Any) -> None:
    """Darker where the weight is larger, and nothing above the diagonal."""
    page.locator(".head-map").first.click()
    expect(page.locator(".map-frame canvas")).to_have_js_property("width", T)
    pixels = drawn(page)
    below = np.tri(T, dtype=bool)
    assert (pixels[..., 3] == np.where(below, 255, 0)).all()
    brightness = [luminance(f"rgb({r},{g},{b})") for r, g, b, _ in pixels[below]]
    order = np.argsort(patterns(T)[0, 0][below])
    # Two weights that differ by less than a level may stand in either order.
    assert (np.diff(np.array(brightness)[order]) < 0.01).all()
    assert brightness[order[-1]] < 0.1 < 0.8 < brightness[order[0]]


def test_map_row_by_row(page: Any, expect: Any) -> None:
    """Each row in terms of its own largest weight: that one is dark, in every row."""
    page.locator(".head-map").first.click()
    expect(page.locator(".map-frame canvas")).to_have_js_property("width", T)
    page.keyboard.press("r")
    assert page.get_by_text("Row by row").get_attribute("aria-pressed") == "true"
    pixels = drawn(page)
    largest = patterns(T)[0, 0].argmax(axis=1)
    darkest = pixels[0, 0]  # the first row has but one weight, and it is 1
    assert (pixels[np.arange(T), largest] == darkest).all()


def test_maps_by_keyboard(page: Any, expect: Any) -> None:
    page.locator(".head-map").first.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("dialog[open] .map-left .label")
    assert page.locator("#map-title").inner_text() == "Layer 1 · head 1"
    expect(page.locator(".map-figure")).to_be_focused()
    pattern = patterns(T)[1, 1]
    for key, query, at in [("Home", T - 1, 0), ("ArrowRight", T - 1, 1), ("ArrowUp", T - 2, 1)]:
        page.keyboard.press(key)
        readout = page.locator(".readout").inner_text()
        assert f"query {query}\n" in readout
        assert f"key {at}\n" in readout
        shown = float(page.locator(".readout .weight").inner_text())
        assert shown == pytest.approx(pattern[query, at], abs=0.005)
    page.keyboard.press("+")
    assert page.locator(".map-left .label[data-position]").count() == 8
    page.keyboard.press("0")
    assert page.locator(".map-left .label[data-position]").count() == T
    page.keyboard.press("]")
    assert page.locator("#map-title").inner_text() == "Layer 1 · head 2"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    # Not where it was before the dialog, but on the map that was seen last.
    expect(page.locator(".head-map[data-layer='1'][data-head='2']")).to_be_focused()


def test_lens(page: Any, content: Any) -> None:
    for row, guesses in enumerate(content.lens):
        for t, (word, probability) in enumerate(guesses):
            cell = page.locator(f"td.guess[data-row='{row}'][data-token='{t}']")
            assert cell.locator(".word").inner_text() == visible(word)
            shown = cell.locator("small").inner_text()
            assert float(shown.removesuffix(" ✓").rstrip("%")) == percent(probability)
            assert ("✓" in shown) == (t + 1 < T and word == content.tokens[t + 1])
    names = page.locator(".lens-table").first.locator("tbody th").all_inner_texts()
    assert names == content.lens_rows


def test_lens_by_keyboard_chooses_tokens(page: Any) -> None:
    page.locator("td.guess[data-row='2'][data-token='1']").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("({...document.activeElement.dataset})")
    assert focused == {"row": "1", "token": "2"}
    assert token(page, 2).get_attribute("aria-selected") == "true"
    page.keyboard.press("End")
    assert token(page, T - 1).get_attribute("aria-selected") == "true"


def test_scores(page: Any, content: Any) -> None:
    for name, values in content.scores.items():
        table = page.locator(f".score[data-score='{name}'] table")
        cells = [[float(cell) for cell in row[1:]] for row in rows_of(table)[1:]]
        np.testing.assert_allclose(cells, values, atol=0.0051)
        layer, head = np.unravel_index(values.argmax(), values.shape)
        assert f"strongest: layer {layer}, head {head}" in table.inner_text()
        best = table.locator(".best")
        assert best.count() == 1
        assert best.get_attribute("data-head") == str(head)


def test_a_score_leads_to_its_map(page: Any) -> None:
    table = page.locator(".score[data-score='induction'] table")
    table.locator("td[data-layer='0'][data-head='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.locator("#map-title").inner_text() == "Layer 0 · head 1"


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("−", "-")) for text in texts]


@pytest.mark.parametrize("t", [0, 5, T - 1])
def test_attribution(page: Any, content: Any, t: int) -> None:
    token(page, t).click()
    table = page.locator(".attribution")
    rows = rows_of(table.locator("tbody").locator(".."))[1:-1]
    assert [name for name, _, _ in rows] == content.parts
    np.testing.assert_allclose(
        numbers([value for _, _, value in rows]), content.attribution[:, t], atol=6e-4
    )
    (total,) = numbers([table.locator(".sum").inner_text()])
    assert total == pytest.approx(content.attribution[:, t].sum(), abs=6e-4)
    target = content.tokens[t + 1] if t < T - 1 else content.guesses[t][0][0]
    assert page.locator(".chosen-token").inner_text().endswith(visible(target))


def test_attribution_bars(page: Any, content: Any) -> None:
    token(page, 5).click()
    script = "all => all.map(e => [e.className, e.getBoundingClientRect().width])"
    bars = page.eval_on_selector_all(".attribution .bar", script)
    values = content.attribution[:, 5]
    assert [("raises" in name) for name, _ in bars] == (values >= 0).tolist()
    widths = np.array([width for _, width in bars])
    np.testing.assert_allclose(
        widths / widths.max(), np.abs(values) / np.abs(values).max(), atol=0.02
    )
    page.get_by_label("largest first").check()
    shown = numbers(page.locator(".attribution tbody td:last-child").all_inner_texts())
    np.testing.assert_allclose(shown, values[np.argsort(-np.abs(values))], atol=6e-4)
    page.get_by_label("next token").click()
    assert "After ⏎ 6" in page.locator(".chosen-token").inner_text()


def test_slots(open_page: Any) -> None:
    held = [[[(2, 0.75), (0, 0.25)], []], [[(5, 1.0)], [(3, 0.5)]]]
    page = open_page(render_text_page(text_content(slots=[[], held])))
    section = page.locator("#slots")
    assert rows_of(section.locator("[data-slot='0']")) == [
        ["·river 2", "", "75.0%"],
        ["<|sot|> 0", "", "25.0%"],
    ]
    assert "1 slots are empty" in section.inner_text()
    section.get_by_label("1", exact=True).last.check()  # head 1
    assert rows_of(section.locator("[data-slot='1']")) == [["·runs 3", "", "50.0%"]]
    section.locator("[data-slot='1'] button").click()
    assert token(page, 3).get_attribute("aria-selected") == "true"


def test_light_and_dark_by_choice(open_page: Any, html: str) -> None:
    page = open_page(html, color_scheme="dark")
    before = colours(page, "body, .token, td.guess")
    page.get_by_label("Light").check()
    chosen = colours(page, "body, .token, td.guess")
    assert luminance(before[0][0]) < 0.1 < 0.8 < luminance(chosen[0][0])
    assert all(one != other for one, other in zip(before[2:], chosen[2:], strict=True))
    page.reload()  # the choice is remembered
    page.wait_for_selector("html[data-state=ready]")
    assert colours(page, "body, .token, td.guess") == chosen


def test_print(open_page: Any, html: str, expect: Any) -> None:
    page = open_page(html, color_scheme="dark", viewport={"width": 720, "height": 1000})
    page.emulate_media(media="print", color_scheme="dark")
    expect(page.locator("body")).to_have_css("color", "rgb(27, 31, 36)")
    assert luminance(colours(page, "body")[0][0]) > 0.9
    assert min(luminance(back) for back, _ in colours(page, "td.guess")) < 0.5 < 0.8
    assert not page.locator("nav").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
    assert page.locator(".lens-table").first.locator("thead [data-token]").count() == 7


def test_narrow(open_page: Any, html: str) -> None:
    page = open_page(html, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.locator(".head-map").first.click()
    page.wait_for_selector(".map-left .label")
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400


def test_nothing_in_the_data_becomes_markup(open_page: Any) -> None:
    evil = [EVIL, "<b>", "&amp;", "<!--<script>", "\u202e", "\ud83d", "${1}", "'\"`"]
    content = text_content(evil)
    content = text_content(
        evil,
        title=EVIL,
        facts={EVIL: EVIL},
        guesses=[[(word, 0.1) for word in evil]] * len(evil),
        scores={EVIL: np.zeros((2, 3))},
        lens_rows=[EVIL] * 3,
        parts=[EVIL] * len(content.parts),
    )
    page = open_page(render_text_page(content))
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == EVIL
    assert page.title() == EVIL
    assert token(page, 0).inner_text() == visible(EVIL)
    shown = page.locator(".token").all_inner_texts()
    assert shown[1:4] == ["<b>", "&amp;", "<!--<script>"]
    assert shown[4:6] == ["⟨202E⟩", "⟨D83D⟩"]  # what turns text around, and half a character
    page.locator(".head-map").first.click()
    page.wait_for_selector(".map-left .label")


REACHING_OUT = """async (address) => {
    const add = (tag, properties) => document.body.append(
        Object.assign(document.createElement(tag), properties));
    const ended = (element) => new Promise((done) => {
        element.onload = element.onerror = done;
        document.body.append(element);
    });
    await fetch(address + "fetch").catch(() => {});
    await ended(Object.assign(new Image(), { src: address + "image" }));
    await ended(Object.assign(document.createElement("script"), { src: address + "script" }));
    navigator.sendBeacon(address + "beacon", "text");
    add("style", { textContent: `@import "${address}import"; body { --styled: yes }` });
    add("script", { text: "window.ranInline = true" });
    document.body.setAttribute("onclick", "window.ranHandler = true");
    document.body.click();
    await new Promise((done) => setTimeout(done, 300));
    return {
        inline: window.ranInline === true,
        handler: window.ranHandler === true,
        styled: getComputedStyle(document.body).getPropertyValue("--styled") !== "",
    };
}"""


@pytest.fixture
def heard() -> Iterator[tuple[str, set[str]]]:
    """The address of a server on this machine that refuses nobody, and what was asked of it."""
    asked: set[str] = set()

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.path.strip("/"))
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def do_POST(self) -> None:  # a beacon
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "control"])
def test_policy_lets_nothing_in_or_out(
    browser: Any, html: str, tmp_path: Path, heard: tuple[str, set[str]], policy: bool
) -> None:
    """By what happens and not by what a browser reports; without the policy all of it happens."""
    if not policy:
        html, count = re.subn(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", html)
        assert count == 1
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    address, asked = heard
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    happened = page.evaluate(REACHING_OUT, address)
    assert set(happened.values()) == {not policy}
    expected = set() if policy else {"fetch", "image", "script", "beacon", "import"}
    deadline = time.monotonic() + 30
    while asked != expected and time.monotonic() < deadline:  # a beacon has no answer to wait for
        page.wait_for_timeout(50)
    assert asked == expected
    page.close()


def test_no_names_leak(browser: Any, page: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.html").write_text("<!doctype html>", encoding="utf-8")
    empty = browser.new_page()
    empty.goto((tmp_path / "empty.html").as_uri())
    own = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    usual = set(empty.evaluate("Object.getOwnPropertyNames(window)"))
    empty.close()
    ids = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
    assert not {name for name in own - usual - ids if not name.isdigit()}


def test_without_scripts(open_page: Any, html: str) -> None:
    page = open_page(html, java_script_enabled=False)
    assert "enable scripts" in page.locator("noscript").inner_text()
    assert "1,053,824" in page.locator(".facts").inner_text()


def test_in_a_notebook(browser: Any, html: str) -> None:
    page = browser.new_page()
    page.set_content(f"<style>td {{ color: red }}</style>{notebook_html(html, height=500)}")
    frame = page.frame_locator("iframe")
    frame.locator(".token").nth(4).hover()
    assert "token 4 of 12" in frame.locator(".detail").inner_text()
    frame.get_by_text("Attribution", exact=True).first.click()
    frame.locator(".attribution").wait_for()
    assert page.locator("iframe").bounding_box()["height"] == 500
    page.close()


def test_parts_that_are_not_there_are_left_out(open_page: Any) -> None:
    bare = text_content(
        ["one"], maps=[], scores={}, lens=[], lens_rows=[], parts=[], attribution=None
    )
    page = open_page(render_text_page(bare))
    assert page.locator("section").count() == 1
    assert page.locator(".token").all_inner_texts() == ["one"]


def test_page_of_a_short_text_is_small() -> None:
    """64 tokens, four layers of four heads."""
    tokens = [f" word{i}" for i in range(64)]
    maps = [[head_map(each) for each in layer] for layer in patterns(64, 4, 4)]
    page = render_text_page(text_content(tokens, maps=maps, scores={}))
    assert len(page.encode()) < 200_000
