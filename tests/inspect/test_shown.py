"""Displays: notebook pages, figures, tokens as text."""

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lumenspark
from lumenspark.errors import UserError
from lumenspark.inspect import attribution, head_scores, logit_lens, trace


@pytest.fixture
def loaded(trained: Path) -> Any:
    model, _ = lumenspark.load(str(trained))
    return model


def shown(thing: Any) -> str:
    """The page inside the frame that a notebook gets."""
    frame = thing._repr_html_()
    assert frame.startswith("<iframe ")
    return html.unescape(frame)


def test_traces_lenses_shares_and_scores_show_themselves_in_a_notebook(loaded: Any) -> None:
    text = "a list of values"
    for thing in (
        trace(loaded, text),
        trace(loaded, [text, "a"], ["*"]),
        logit_lens(loaded, text),
        attribution(loaded, text),
        head_scores(loaded),
    ):
        assert "<!doctype html>" in shown(thing).lower()


def test_the_figure_holds_the_pattern_and_the_tokens(loaded: Any) -> None:
    found = trace(loaded, "a list of values", ["blocks.*.attention.pattern"])
    axes = found.plot_attention(layer=1, head=0).axes[0]
    drawn = np.asarray(axes.images[0].get_array())
    assert np.array_equal(drawn, found["blocks.1.attention.pattern"][0, 0].numpy())
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert "".join(labels) == "".join(found.tokens[0]).replace(" ", "·")


def test_the_figure_leaves_pads_out(loaded: Any) -> None:
    found = trace(loaded, ["a", "a list of values"], ["blocks.0.attention.pattern"])
    alone = trace(loaded, "a", ["blocks.0.attention.pattern"])
    drawn = np.asarray(found.plot_attention(0, 1, row=0).axes[0].images[0].get_array())
    expected = alone["blocks.0.attention.pattern"][0, 1].numpy()
    assert drawn == pytest.approx(expected, abs=1e-5)


def test_a_head_that_is_not_there_is_an_error(loaded: Any) -> None:
    found = trace(loaded, "a", ["blocks.0.attention.pattern"])
    with pytest.raises(UserError, match="there is no head 9: layer 0 has 2"):
        found.plot_attention(0, 9)
    with pytest.raises(UserError, match=r"blocks\.1\.attention\.pattern was not requested"):
        found.plot_attention(1, 0)


@pytest.mark.parametrize("text", ["plain words", "naïve — 日本 🎉!", "\N{REPLACEMENT CHARACTER} x"])
def test_tokens_join_to_the_text_and_no_character_is_broken(loaded: Any, text: str) -> None:
    found = trace(loaded, text)
    tokenizer = found.tokenizer
    assert "".join(found.tokens[0]) == tokenizer.decode(found.ids[0])
    assert len(found.tokens[0]) == found.ids.shape[1]
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in token for token in found.tokens[0])


def test_without_a_tokenizer_tokens_are_their_ids(model: Any, ids: Tensor) -> None:
    assert trace(model, ids).tokens == [[str(token) for token in row] for row in ids.tolist()]


def test_characters_cut_at_the_end_are_shown_as_such(loaded: Any) -> None:
    tokenizer = trace(loaded, "a").tokenizer
    ids = torch.tensor(tokenizer("🎉", add_special_tokens=False)["input_ids"][:-1])
    pieces = trace(loaded, ids).tokens[0]
    assert len(pieces) == len(ids)
    assert pieces[-1].startswith("\N{REPLACEMENT CHARACTER}")
