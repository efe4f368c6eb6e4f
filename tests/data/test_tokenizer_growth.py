"""A tokenizer.json that makes a short text enormous is refused before anything is encoded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumenspark.data.tokenizer import load_tokenizer, to_transformers, train_tokenizer
from lumenspark.data.tokenizer_growth import check_growth
from lumenspark.errors import UserError

Content = dict[str, Any]


def replace(content: str, **pattern: str) -> Content:
    return {"type": "Replace", "pattern": pattern, "content": content}


TENFOLD = replace("a" * 10, String="a")
SPECIAL = {"SpecialToken": {"id": "<|sot|>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def template(entries: int, ids: int) -> Content:
    token = {"id": "<|sot|>", "ids": [0] * ids, "tokens": ["<|sot|>"] * ids}
    return {
        "type": "TemplateProcessing",
        "single": [SPECIAL] * entries + [TEXT],
        "pair": [TEXT, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|sot|>": token},
    }


ENORMOUS = {
    "a long prefix": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**5}},
    "replacements of replacements": {
        "normalizer": {"type": "Sequence", "normalizers": [TENFOLD] * 9}
    },
    "sequences in sequences": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Sequence", "normalizers": [TENFOLD] * 3}] * 3,
        }
    },
    "between all characters": {
        "normalizer": {"type": "Sequence", "normalizers": [replace("a" * 99, Regex="")] * 2}
    },
    "in decoding": {"decoder": {"type": "Sequence", "decoders": [TENFOLD] * 9}},
    "a long space": {
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "_" * 5000,
            "prepend_scheme": "always",
            "split": True,
        }
    },
    "a template of many": {"post_processor": template(10**5, 1)},
    "a token of many ids": {"post_processor": template(2, 10**5)},
    "templates in a sequence": {
        "post_processor": {"type": "Sequence", "processors": [template(30, 30)] * 3}
    },
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Content], Path]:
    """A folder with a tokenizer of ours in which some settings are others."""

    def write(changes: Content) -> Path:
        to_transformers(train_tokenizer(["some plain text"], 270), 64).save_pretrained(tmp_path)
        file = tmp_path / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return tmp_path

    return write


@pytest.mark.parametrize("changes", ENORMOUS.values(), ids=ENORMOUS)
def test_what_makes_a_text_enormous_is_refused(
    written: Callable[[Content], Path], changes: Content
) -> None:
    with pytest.raises(
        UserError, match=r"can lengthen a text|characters|special tokens to"
    ) as said:
        load_tokenizer(str(written(changes)))
    assert len(str(said.value)) < 600


def test_a_token_of_millions_of_characters_is_refused(written: Callable[[Content], Path]) -> None:
    folder = written({})
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["x" * 10**6] = len(content["model"]["vocab"])
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"it has a token of 1,000,000 characters"):
        load_tokenizer(str(folder))


USUAL = {
    "spaces": {"normalizer": replace("▁", String=" ")},
    "a prefix": {"normalizer": {"type": "Prepend", "prepend": "▁"}},
    "quotes, one after another": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [replace('"', Regex="``"), replace(" ", Regex=" {2,}")] * 2,
        }
    },
    "a long pattern": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "|".join(f"word{i}" for i in range(2000))},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "a template": {"post_processor": template(2, 1)},
}


@pytest.mark.parametrize("changes", USUAL.values(), ids=USUAL)
def test_what_tokenizers_in_use_do_is_taken(
    written: Callable[[Content], Path], changes: Content
) -> None:
    check_growth(json.loads((written(changes) / "tokenizer.json").read_text()))


@pytest.mark.parametrize("value", [None, 1, "x", [], [[]], {"type": 3}, {"normalizers": 3}, [None]])
def test_settings_of_odd_kinds_are_left_to_who_reads_them(value: Any) -> None:
    names = ("normalizer", "pre_tokenizer", "decoder", "post_processor", "model", "added_tokens")
    check_growth(dict.fromkeys(names, value))
    check_growth({"post_processor": {"processors": [value], "special_tokens": value}})
    check_growth({"model": {"vocab": value}})
