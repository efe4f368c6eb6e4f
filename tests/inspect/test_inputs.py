"""Accepted and rejected forms of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from inspectable import (
    assert_near,
    every_kind,
    make_model,
)
from small_models import left_padded, random_rows
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

import lumenspark
from lumenspark.errors import UserError
from lumenspark.inspect import Trace, patch, trace
from lumenspark.models import LumiereForCausalLM

PATTERNS = "blocks.*.attention.pattern"


@pytest.fixture(scope="module")
def own(trained: Path) -> LumiereForCausalLM:
    """Trained briefly; saved with its tokenizer."""
    model: LumiereForCausalLM = LumiereForCausalLM.from_pretrained(trained / "checkpoints" / "best")
    return model


def test_text_is_read_by_the_tokenizer_beside_the_weights(
    own: LumiereForCausalLM, trained: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "checkpoints" / "best")
    text = "The class statement"
    ids = tokenizer(text)["input_ids"]
    traced = lumenspark.trace(own, text, names=[PATTERNS])
    assert isinstance(traced, Trace)
    assert traced.ids.tolist() == [ids]
    assert traced.mask is None
    assert traced.tokens == [[tokenizer.decode([token]) for token in ids]]
    assert "".join(traced.tokens[0]) == "<|sot|>" + text
    assert torch.equal(traced.logits, own(torch.tensor([ids])).logits)
    for same in (ids, torch.tensor(ids), torch.tensor([ids]), [text]):
        other = trace(own, same)
        assert torch.equal(other.logits, traced.logits)
        assert other.tokens == traced.tokens


def test_texts_of_unequal_length_are_padded_on_the_left(
    own: LumiereForCausalLM, trained: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "checkpoints" / "best")
    texts = ["The class statement", "if"]
    both = trace(own, texts, ["final_norm"])
    rows = [tokenizer(text)["input_ids"] for text in texts]
    pads = len(rows[0]) - len(rows[1])
    assert both.mask is not None
    assert both.mask.tolist() == [[True] * len(rows[0]), [False] * pads + [True] * len(rows[1])]
    alone = trace(own, texts[1], ["final_norm"])
    assert both.ids[1, pads:].tolist() == rows[1]
    assert_near(both["final_norm"][1, pads:], alone["final_norm"][0])


def test_another_tokenizer_can_be_given(model: LumiereForCausalLM, trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "checkpoints" / "best")
    ids = [token % 300 for token in tokenizer("if")["input_ids"]]
    assert trace(model, ids, tokenizer=tokenizer).tokens == [[tokenizer.decode([t]) for t in ids]]


def test_without_a_tokenizer_tokens_are_ids(model: LumiereForCausalLM) -> None:
    assert trace(model, [5, 6]).tokens == [["5", "6"]]


@pytest.mark.parametrize("text", ["if", ["if", "else"]])
def test_text_without_a_tokenizer_is_an_error(
    model: LumiereForCausalLM, text: str | list[str]
) -> None:
    with pytest.raises(UserError, match="with this model's weights: pass tok"):
        trace(model, text)


@pytest.mark.parametrize("text", ["", ["lamp", ""]])
def test_text_without_tokens_is_an_error(model: LumiereForCausalLM, text: str | list[str]) -> None:
    words = Tokenizer(models.WordLevel({"lamp": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=words)
    assert trace(model, "lamp", tokenizer=bare).ids.tolist() == [[0]]
    with pytest.raises(UserError, match="a prompt has no tokens"):
        trace(model, text, tokenizer=bare)


def test_more_tokens_than_the_context_are_an_error(
    own: LumiereForCausalLM, model: LumiereForCausalLM
) -> None:
    with pytest.raises(UserError, match=r"17 tokens exceed the context of 16: give fewer"):
        trace(model, random_rows(17)[0])
    context = own.config.max_position_embeddings
    with pytest.raises(UserError, match=f"tokens exceed the context of {context}"):
        trace(own, "word " * 4 * context)


@every_kind
def test_pads_do_not_count_towards_the_context(model: Any) -> None:
    batch = left_padded(random_rows(16))
    pads = torch.zeros(1, 3, dtype=torch.long)
    ids = torch.cat([pads, batch["input_ids"]], dim=1)
    mask = torch.cat([pads, batch["attention_mask"]], dim=1)
    traced = trace(model, ids, ["final_norm"], attention_mask=mask)
    alone = trace(model, batch["input_ids"], ["final_norm"])
    assert_near(traced["final_norm"][:, 3:], alone["final_norm"])


@pytest.mark.parametrize(
    "given",
    [
        [],
        [[]],
        torch.zeros(0, dtype=torch.long),
        torch.tensor(5),
        torch.zeros(1, 1, 1, dtype=torch.long),
        torch.tensor([5.0, 6.0]),
        [5.0],
        [[5, 6], [7]],
    ],
    ids=str,
)
def test_ids_of_another_shape_or_sort_are_an_error(model: LumiereForCausalLM, given: Any) -> None:
    with pytest.raises(UserError, match="token ids must be integers of shape"):
        trace(model, given)


def test_ids_can_be_of_any_whole_numbers(model: LumiereForCausalLM, ids: Tensor) -> None:
    expected = trace(model, ids).logits
    assert torch.equal(trace(model, ids.int()).logits, expected)
    assert torch.equal(trace(model, ids.numpy()).logits, expected)


@pytest.mark.parametrize("shape", [(11,), (1, 11), (2, 10), (2, 1, 11)])
def test_a_mask_of_another_shape_is_an_error(
    model: LumiereForCausalLM, ids: Tensor, shape: tuple[int, ...]
) -> None:
    with pytest.raises(UserError, match=r"attention_mask has shape .* of shape \(2, 11\)"):
        trace(model, ids, attention_mask=torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_a_mask_can_be_of_any_sort(
    model: LumiereForCausalLM, padded: dict[str, Tensor], dtype: torch.dtype
) -> None:
    expected = model(**padded).logits
    mask = padded["attention_mask"].to(dtype)
    traced = trace(model, padded["input_ids"], attention_mask=mask)
    assert traced.mask is not None
    assert traced.mask.dtype == torch.bool
    assert torch.equal(traced.logits, expected)
    one = trace(model, padded["input_ids"][0], attention_mask=mask[0])
    assert_near(one.logits[0, 4:], expected[0, 4:])


def test_a_mask_without_pads_is_none(model: LumiereForCausalLM, ids: Tensor) -> None:
    assert trace(model, ids, attention_mask=torch.ones_like(ids)).mask is None


@pytest.fixture
def compiled(model: LumiereForCausalLM, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Marked for compilation, in one of torch's two ways; nothing is compiled before a call."""
    if request.param == "compile()":
        yield torch.compile(model)
    else:
        model.compile()
        yield model
    torch.compiler.reset()


@pytest.mark.parametrize("compiled", ["compile()", "model.compile()"], indirect=True)
def test_a_compiled_model_is_an_error(compiled: Any, ids: Tensor) -> None:
    expected = "a compiled model cannot be inspected: pass the model from before"
    with pytest.raises(UserError, match=expected):
        trace(compiled, ids, ["embed"])
    with pytest.raises(UserError, match=expected), patch(compiled, {"embed": torch.zeros_like}):
        pass


def test_a_model_with_a_compiled_part_is_an_error(model: Any, ids: Tensor) -> None:
    model.model.layers[1].compile(backend="eager")
    with pytest.raises(UserError, match="with no compiled submodules"):
        trace(model, ids, ["embed"])


@pytest.mark.parametrize("wrong", [300, -1])
def test_ids_beyond_the_vocabulary_are_an_error(model: Any, ids: Tensor, wrong: int) -> None:
    ids[0, 3] = wrong
    with pytest.raises(UserError, match="token ids of this model range from 0 to 299"):
        trace(model, ids)


def test_strings_bring_their_own_mask(trained: Path) -> None:
    model, _ = lumenspark.load(str(trained))
    with pytest.raises(UserError, match="attention_mask is for token ids"):
        trace(model, "a list", attention_mask=torch.ones(1, 2))


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path, ids: Tensor) -> None:
    """Transformers makes up one without entries for GPT-2."""
    make_model("gpt2").save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="there is no tokenizer with this model's weights"):
        trace(model, "hello world")
    assert trace(model, ids).tokens[0][0] == str(int(ids[0, 0]))
