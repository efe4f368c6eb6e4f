"""Activation patching against hand-written hooks; steering vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from inspectable import assert_near, attention_output, blocks_of, every_kind
from torch import Tensor

import lumenspark
from lumenspark.errors import UserError
from lumenspark.inspect import activation_patching, steering_vector

CORRECT, INCORRECT = 7, 9


@pytest.fixture
def pair(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Two rows of 11 tokens that differ from the fifth to the seventh."""
    corrupted = ids[:1].clone()
    corrupted[:, 4:7] = ids[1:, 4:7]
    return ids[:1], corrupted


def difference(logits: Tensor) -> float:
    return float(logits[0, -1, CORRECT] - logits[0, -1, INCORRECT])


def block_outputs(model: Any, ids: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).clone())

    hooks = [block.register_forward_hook(keep) for block in blocks_of(model)]
    model(ids)
    for hook in hooks:
        hook.remove()
    return kept


@every_kind
@torch.no_grad()
def test_positions_are_patched_as_by_hooks_on_the_blocks(
    model: Any, pair: tuple[Tensor, Tensor]
) -> None:
    clean, corrupted = pair
    found = activation_patching(model, clean, corrupted, CORRECT, INCORRECT)
    top, bottom = (difference(model(ids).logits) for ids in pair)
    assert (found.clean, found.corrupted) == (pytest.approx(top), pytest.approx(bottom))
    assert found.effects.shape == (2, 11)
    assert found.columns == [str(token) for token in corrupted[0].tolist()]
    for layer, block in enumerate(blocks_of(model)):
        for position in range(11):
            known = block_outputs(model, clean)[layer]

            def put(
                module: Any, inputs: Any, output: Any, known: Tensor = known, t: int = position
            ) -> Any:
                stream = (output[0] if isinstance(output, tuple) else output).clone()
                stream[:, t] = known[:, t]
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            hook = block.register_forward_hook(put)
            effect = (difference(model(corrupted).logits) - bottom) / (top - bottom)
            hook.remove()
            assert float(found.effects[layer, position]) == pytest.approx(effect, abs=1e-3)


@every_kind
@torch.no_grad()
def test_heads_are_patched_as_by_hooks_on_the_way_out(
    model: Any, pair: tuple[Tensor, Tensor]
) -> None:
    clean, corrupted = pair
    found = activation_patching(
        model, clean, corrupted, CORRECT, INCORRECT, tensor="attention.heads"
    )
    top, bottom = (difference(model(ids).logits) for ids in pair)
    assert found.columns == ["0", "1", "2", "3"]
    size = getattr(model.config, "head_dim", 8)
    for layer in range(2):
        exit_ = attention_output(model, layer)
        kept: list[Tensor] = []
        hook = exit_.register_forward_pre_hook(
            lambda module, args, kept=kept: kept.append(args[0].clone())
        )
        model(clean)
        hook.remove()
        for head in range(4):
            own = slice(size * head, size * (head + 1))

            def put(module: Any, args: Any, kept: Any = kept, own: slice = own) -> Any:
                mixed = args[0].clone()
                mixed[..., own] = kept[0][..., own]
                return (mixed,)

            hook = exit_.register_forward_pre_hook(put)
            effect = (difference(model(corrupted).logits) - bottom) / (top - bottom)
            hook.remove()
            assert float(found.effects[layer, head]) == pytest.approx(effect, abs=1e-3)


def test_what_comes_before_the_difference_changes_nothing_and_the_end_is_everything(
    model: Any, pair: tuple[Tensor, Tensor]
) -> None:
    effects = activation_patching(model, *pair, CORRECT, INCORRECT).effects
    assert effects[:, :4].abs().max() < 1e-3
    assert float(effects[1, -1]) == pytest.approx(1, abs=1e-3)
    assert effects[1, :-1].abs().max() < 1e-3


def test_texts_and_tokens_as_strings(trained: Path) -> None:
    model, tokenizer = lumenspark.load(str(trained))
    clean, corrupted = "the list a", "the list b"
    assert len(tokenizer(clean)["input_ids"]) == len(tokenizer(corrupted)["input_ids"])
    found = activation_patching(model, clean, corrupted, "a", "b")
    assert "".join(found.columns).endswith("the list b")
    with pytest.raises(UserError, match=r"is [2-9] tokens: choose text of a single token"):
        activation_patching(model, clean, corrupted, "aZqx", "b")


def test_texts_of_unequal_length_are_an_error(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="the texts have 11 and 10 tokens"):
        activation_patching(model, ids[:1], ids[:1, :10], CORRECT, INCORRECT)


def test_texts_with_equal_logit_differences_are_an_error(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="there is nothing to localise"):
        activation_patching(model, ids[:1], ids[:1], CORRECT, INCORRECT)


def test_tokens_as_strings_need_a_tokenizer(model: Any, pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="there is no tokenizer to encode 'yes'"):
        activation_patching(model, *pair, "yes", "no")


def test_a_steering_vector_is_the_difference_of_means_at_the_last_tokens(trained: Path) -> None:
    model, tokenizer = lumenspark.load(str(trained))
    toward, away = ["a list of numbers", "more words"], ["the file"]
    vector = steering_vector(model, toward, away, "blocks.0.residual")

    def end(text: str) -> Tensor:
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            return block_outputs(model, ids)[0][0, -1]

    expected = (end(toward[0]) + end(toward[1])) / 2 - end(away[0])
    assert_near(vector, expected)


def test_steering_needs_a_tensor_of_the_stream(trained: Path) -> None:
    model, _ = lumenspark.load(str(trained))
    with pytest.raises(UserError, match="has heads: steer with"):
        steering_vector(model, ["a"], ["b"], "blocks.0.attention.heads")


def test_a_tensor_is_one_that_each_block_has(model: Any, pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="out matches 4 tensors"):
        activation_patching(model, *pair, CORRECT, INCORRECT, tensor="out")


def test_correct_and_incorrect_are_tokens_of_the_model(
    model: Any, pair: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(UserError, match="7000 is not a token id: the last is 299"):
        activation_patching(model, *pair, 7000, INCORRECT)


def test_one_text_of_each_kind(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="give one clean text and one corrupted text"):
        activation_patching(model, ids, ids, CORRECT, INCORRECT)


def test_steering_is_by_one_tensor(trained: Path) -> None:
    model, _ = lumenspark.load(str(trained))
    with pytest.raises(UserError, match="matches 2 tensors"):
        steering_vector(model, ["a"], ["b"], "blocks.*.residual")


def test_effects_show_themselves_as_a_table(model: Any, pair: tuple[Tensor, Tensor]) -> None:
    found = activation_patching(model, *pair, CORRECT, INCORRECT)
    found.columns[0] = "<b>"
    table = found._repr_html_()
    assert table.count("<td") == found.effects.numel()
    assert f">{float(found.effects[1, 5]):.2f}<" in table
    assert "<b>" not in table
    assert "&lt;b&gt;" in table
