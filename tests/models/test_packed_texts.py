"""Several texts in one row, told apart by positions: each is computed as if it were alone."""

from typing import Any

import pytest
import torch
from small_models import (
    ATTENTIONS,
    Config,
    Model,
    fill_with_noise,
    low_rank_attention,
    new_model,
    random_rows,
    small_config,
)
from torch import Tensor
from transformers import DataCollatorWithFlattening

LENGTHS = (5, 16, 1, 9, 2)
FAMILIES = [("lumiere", {}), *(("lumenspark", changes) for changes in ATTENTIONS.values())]
every_model = pytest.mark.parametrize(
    ("family", "changes"),
    FAMILIES,
    ids=["lumiere", *(f"lumenspark, {name}" for name in ATTENTIONS)],
)
dense_models = pytest.mark.parametrize(
    ("family", "changes"), [("lumiere", {}), ("lumenspark", {"k": None})], ids=["lumiere", "k=None"]
)


@pytest.fixture
def config(family: str, changes: dict[str, Any]) -> Config:
    return small_config(family, dropout=0.0, **changes)


def alone(model: Model, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The logits (T, V) of all texts one after another, and their mean loss by token."""
    outputs = [model(torch.tensor([row])) for row in rows]
    losses = [
        torch.nn.functional.cross_entropy(
            output.logits[0, :-1], torch.tensor(row[1:], dtype=torch.long), reduction="sum"
        )
        for output, row in zip(outputs, rows, strict=True)
    ]
    predicted = sum(len(row) - 1 for row in rows)
    return torch.cat([output.logits[0] for output in outputs]), sum(losses) / predicted


@every_model
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"return_flash_attn_kwargs": True},
        {"return_flash_attn_kwargs": True, "return_position_ids": False},
        {"return_seq_idx": True, "return_position_ids": False},
    ],
    ids=["positions", "both", "lengths", "numbers"],
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_what_the_flattening_collator_packs_equals_the_texts_alone(
    model: Model, said: dict[str, bool], training: bool
) -> None:
    model.train(training)
    rows = random_rows(*LENGTHS)
    batch = DataCollatorWithFlattening(**said)([{"input_ids": row} for row in rows])
    output = model(**batch, skip_logits=False)
    logits, loss = alone(model, rows)
    torch.testing.assert_close(output.logits[0], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.loss, loss, rtol=1e-4, atol=1e-4)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(output.loss, weights, allow_unused=True)
    expected = torch.autograd.grad(loss, weights, allow_unused=True)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)
    assert output.past_key_values is None


def packed_and_padded() -> tuple[list[list[int]], dict[str, Tensor], list[tuple[int, slice]]]:
    """Four texts in two rows with pads at both ends and between, and where each lies."""
    a, b, c, d = rows = random_rows(5, 9, 7, 4)
    ids = [[*a, *b, 2, 2], [2, 2, 2, *c, 2, 2, *d]]
    mask = [[1] * 14 + [0] * 2, [0] * 3 + [1] * 7 + [0] * 2 + [1] * 4]
    positions = [[*range(5), *range(9), 8, 8], [0, 0, 0, *range(7), 6, 6, *range(4)]]
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    places = [(0, slice(0, 5)), (0, slice(5, 14)), (1, slice(3, 10)), (1, slice(12, 16))]
    return rows, {name: torch.tensor(values) for name, values in batch.items()}, places


@every_model
@pytest.mark.parametrize("at_pads", [None, 1, 0])
def test_beside_a_mask(model: Model, at_pads: int | None) -> None:
    """Whatever the positions of pads are said to be."""
    rows, batch, places = packed_and_padded()
    if at_pads is not None:
        batch["position_ids"].masked_fill_(batch["attention_mask"] == 0, at_pads)
    output = model(**batch, output_attentions=True)
    for row, (index, place) in zip(rows, places, strict=True):
        expected = model(torch.tensor([row]), output_attentions=True)
        torch.testing.assert_close(
            output.logits[index, place], expected.logits[0], rtol=1e-4, atol=1e-4
        )
        for weights, wanted in zip(output.attentions, expected.attentions, strict=True):
            torch.testing.assert_close(
                weights[index, :, place, place], wanted[0], rtol=1e-4, atol=1e-4
            )
            assert weights[index, :, place, : place.start].eq(0).all()


@dense_models
@pytest.mark.parametrize(
    "attention",
    ["eager", "matmul", pytest.param("flex_attention", marks=pytest.mark.slow)],
)
def test_with_other_implementations_of_dense_attention(model: Model, attention: str) -> None:
    model.set_attn_implementation(attention)
    rows, batch, places = packed_and_padded()
    with torch.no_grad():
        logits = model(**batch).logits
        for row, (index, place) in zip(rows, places, strict=True):
            expected = model(torch.tensor([row])).logits[0]
            torch.testing.assert_close(logits[index, place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "changes"), FAMILIES[:2], ids=["lumiere", "content"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.slow
def test_compiled(model: Model, masked: bool) -> None:
    model.train()
    _, batch, _ = packed_and_padded()
    if not masked:
        batch["position_ids"].masked_fill_(batch.pop("attention_mask") == 0, 0)
    expected = model(**batch).logits
    compiled = torch.compile(model, backend="eager")(**batch).logits
    present = batch.get("attention_mask", torch.ones(2, 16)) == 1
    torch.testing.assert_close(compiled[present], expected[present], rtol=1e-4, atol=1e-4)


@every_model
def test_with_gradient_checkpointing(model: Model) -> None:
    model.train()
    _, batch, _ = packed_and_padded()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def gradient() -> Tensor:
        model.zero_grad()
        model(**batch, labels=labels).loss.backward()
        return model.model.embed_tokens.weight.grad.clone()

    expected = gradient()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradient(), expected)


@every_model
def test_positions_that_only_count_change_nothing(model: Model, ids: Tensor) -> None:
    expected = model(ids)
    output = model(ids, position_ids=torch.arange(11)[None])
    assert torch.equal(output.logits, expected.logits)
    assert output.past_key_values.get_seq_length() == 11


@every_model
def test_a_cache_holds_one_text_a_row(model: Model, ids: Tensor) -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])
    with pytest.raises(ValueError, match=r"position_ids restart within a row.*use_cache=False"):
        model(ids, position_ids=positions, use_cache=True)
    with pytest.raises(ValueError, match="position_ids restart within a row"):
        model(ids, position_ids=positions, past_key_values=model.model.new_cache())
    known = model(ids[:, :4]).past_key_values
    with pytest.raises(ValueError, match="position_ids restart within a row"):
        model(ids[:, 4:], position_ids=positions[:, 2:9], past_key_values=known)
    assert known.get_seq_length() == 4


@pytest.mark.parametrize("family", ["lumenspark"])
@low_rank_attention
@pytest.mark.parametrize(
    "positions",
    [range(3, 14), range(-1, 10), [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12], [*range(6), *range(3, 8)]],
    ids=["shifted", "negative", "with a gap", "anew but not at 0"],
)
def test_low_rank_attention_refuses_positions_that_it_cannot_honour(
    model: Model, ids: Tensor, positions: Any
) -> None:
    with pytest.raises(ValueError, match="low-rank attention counts the tokens of a text from 0"):
        model(ids, position_ids=torch.tensor([list(positions)]))


@pytest.mark.parametrize("family", ["lumenspark"])
@low_rank_attention
@pytest.mark.parametrize("tokens", [1, 5])
def test_low_rank_attention_goes_on_where_the_cache_ends(
    model: Model, ids: Tensor, tokens: int
) -> None:
    known = model(ids[:, :6]).past_key_values
    now = ids[:, 6 : 6 + tokens]
    with pytest.raises(ValueError, match=r"from 0, cached ones included"):
        model(now, position_ids=torch.arange(tokens)[None], past_key_values=known)
    output = model(now, position_ids=6 + torch.arange(tokens)[None], past_key_values=known)
    expected = model(ids[:, : 6 + tokens]).logits[:, 6:]
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)


@every_model
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": [[1] * 5 + [2] * 6] * 3}, "values other than 0 .* and 1"),
        ({"attention_mask": [[0.0] * 5 + [-1e9] * 6] * 3}, "values other than 0 .* and 1"),
        ({"attention_mask": [[[1] * 11] * 11] * 3}, "3 dimensions"),
        ({"position_ids": [list(range(5))]}, r"the shape \(1, 5\).*\(3, 11\)"),
        ({"position_ids": [list(range(11))] * 2}, r"the shape \(2, 11\).*\(3, 11\)"),
        ({"cu_seq_lens_q": [0, 5, 11]}, "cu_seq_lens_q does not divide one row of 11"),
        ({"seq_idx": [[0] * 5 + [1] * 6]}, "seq_idx does not divide one row of 11"),
    ],
    ids=["numbers of texts", "additive", "cube", "short", "rows", "lengths", "texts"],
)
def test_what_has_no_meaning_is_refused(
    model: Model, ids: Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(ids, **{name: torch.tensor(value) for name, value in arguments.items()})


@every_model
@pytest.mark.parametrize("lengths", [[0, 4, 9], [1, 5, 11], [11], [0, 4]], ids=str)
def test_lengths_that_do_not_add_up(model: Model, ids: Tensor, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="does not divide one row of 11 tokens"):
        model(ids[:1], cu_seq_lens_q=torch.tensor(lengths))


@every_model
def test_positions_and_lengths_that_disagree(model: Model, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="position_ids and cu_seq_lens_q disagree"):
        model(ids[:1], position_ids=torch.arange(11)[None], cu_seq_lens_q=torch.tensor([0, 5, 11]))


@dense_models
def test_positions_outside_the_context(model: Model, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="a position is -2"):
        model(ids, position_ids=torch.arange(-2, 9)[None])
    with pytest.raises(ValueError, match="17 tokens are longer than the context of 16"):
        model(ids, position_ids=torch.arange(6, 17)[None])


def test_many_short_texts_beside_a_long_one_take_no_square() -> None:
    """Texts are padded to others of their length only, not to the longest of the row."""
    config = small_config("lumenspark", seq_length=400, dropout=0.0)
    model = fill_with_noise(new_model(config)).train()
    rows = random_rows(*([1] * 400), 400)
    batch = DataCollatorWithFlattening()([{"input_ids": row} for row in rows])
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        logits = model(**batch, skip_logits=False).logits
        long = model(torch.tensor(rows[-1:])).logits
    torch.testing.assert_close(logits[:, 400:], long, rtol=1e-3, atol=1e-3)
    # To the longest: 401 texts of 400 places, with 32 features of 4 bytes each.
    assert max(event.self_cpu_memory_usage for event in profile.events()) < 400 * 400 * 32 * 4 / 4
