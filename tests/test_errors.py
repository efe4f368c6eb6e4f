"""What others raise becomes one sentence of bounded length."""

import json
from typing import Any

import pytest

from lumenspark.errors import (
    LONGEST_QUOTE,
    LONGEST_REASON,
    UserError,
    did_you_mean,
    quoted,
    reading,
)


@pytest.mark.parametrize("error", [RecursionError(), KeyError("k"), ValueError("x\nsecond line")])
def test_whatever_a_parser_raises_names_the_file_and_the_fix(error: Exception) -> None:
    sentence = r"^config\.json cannot be read \(.+\): write it again$"
    with pytest.raises(UserError, match=sentence), reading("config.json", "write it again"):
        raise error


def test_a_sentence_that_knows_more_stays() -> None:
    with pytest.raises(UserError, match=r"^better$"), reading("config.json", "write it again"):
        raise UserError("better")


def test_ctrl_c_is_no_error_of_the_file() -> None:
    with pytest.raises(KeyboardInterrupt), reading("config.json", "write it again"):
        raise KeyboardInterrupt


def test_reasons_are_short() -> None:
    with pytest.raises(UserError) as caught, reading("f", "fix"):
        raise ValueError("long " * 10_000)
    assert len(str(caught.value)) < LONGEST_REASON + 50


def nested(depth: int) -> Any:
    """A tree of 9 ** depth leaves in a few kilobytes, as YAML's aliases make them."""
    value: Any = "lol"
    for _ in range(depth):
        value = [value] * 9
    return value


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**6000, nested(9), {"k": nested(9)}, b"\xff" * 10**5, [float("nan")]],
    ids=["string", "integer", "list", "mapping", "bytes", "nan"],
)
def test_quotes_are_short(value: Any) -> None:
    assert 0 < len(quoted(value)) <= LONGEST_QUOTE


def test_short_quotes_are_whole() -> None:
    for value in ("word", 3, 0.5, None, ["a", 1], {"a": [1, 2]}):
        assert quoted(value) == repr(value)


def test_both_ends_of_a_long_quote_are_shown() -> None:
    text = quoted("begin" + "x" * 500 + "end")
    assert text.startswith("'begin")
    assert text.endswith("end'")
    assert json.dumps(text)


def test_names_cannot_act_on_a_terminal() -> None:
    name = "a\nb\x1b[31m\u202e\ud800é"
    assert str(UserError(f"no {name}")) == r"no a\nb\x1b[31m\u202e\ud800é"


def test_did_you_mean_appends_the_closest_name() -> None:
    assert did_you_mean("trian", ["train", "resume"]) == " (did you mean train?)"
    assert did_you_mean("zzz", ["train", "resume"]) == ""
