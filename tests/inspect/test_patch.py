"""Patches: each edit against plain torch, its scope, and its removal."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from inspectable import (
    assert_near,
    every_kind,
    hook_count,
    logits_of,
    make_model,
    one_of_each_sort,
    slot_kinds,
    without_head,
)
from plain_parts import plain_loss, plain_parts
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect import add, inspect_names, mean, patch, replace, trace, zero
from lumenspark.inspect.attention_hooks import AttentionHooks
from lumenspark.models import LumiereForCausalLM

Place = tuple[int | slice, ...]


def plain_logits(model: Any, ids: Tensor, edits: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits of rows (B, T) by plain torch."""
    with torch.no_grad():
        return torch.stack([plain_parts(model, row, edits)["logits"] for row in ids])


def halved(tensor: Tensor) -> Tensor:
    return tensor / 2


def tilted(tensor: Tensor) -> Tensor:
    """Scale the last axis by factors from 1/2 to 3/2, which no norm hides."""
    return tensor * torch.linspace(0.5, 1.5, tensor.shape[-1])


# Each edit against plain torch


@every_kind
@pytest.mark.parametrize("edit", [zero, tilted])
def test_the_model_goes_on_with_what_an_edit_gives(
    model: Any, ids: Tensor, edit: Callable[[Tensor], Tensor]
) -> None:
    """For every name, including queries before rotation, shared keys, and slots."""
    before = logits_of(model, ids)
    for name in inspect_names(model):
        expected = plain_logits(model, ids, {name: edit})
        with patch(model, {name: edit}):
            assert_near(logits_of(model, ids), expected, name)
        assert not torch.allclose(expected, before, atol=1e-3), name
    assert torch.equal(logits_of(model, ids), before)


@pytest.mark.parametrize("kind", ["lumiere", "content", "gpt2"])
def test_an_edit_may_work_in_place(model: Any, ids: Tensor) -> None:
    for name in inspect_names(model):
        with patch(model, {name: tilted}):
            expected = logits_of(model, ids)
        with patch(model, {name: lambda tensor: tensor.mul_(tilted(torch.ones_like(tensor)))}):
            assert_near(logits_of(model, ids), expected, name)


@every_kind
def test_a_copy_in_a_tensors_place_changes_nothing(model: Any, padded: dict[str, Tensor]) -> None:
    mask = padded["attention_mask"]
    real = mask.bool()
    expected = logits_of(model, padded["input_ids"], attention_mask=mask)
    for name in ["*", *inspect_names(model)]:
        with patch(model, {name: torch.clone}):
            logits = logits_of(model, padded["input_ids"], attention_mask=mask)
        assert logits.isfinite().all(), name
        assert_near(logits[real], expected[real], name, tolerance=1e-5)


@every_kind
@pytest.mark.parametrize("part", ["attention.heads", "attention.mixed", "attention.pattern"])
def test_a_head_set_to_zero_is_as_if_it_had_no_weights(model: Any, ids: Tensor, part: str) -> None:
    expected = logits_of(without_head(model, layer=1, head=2), ids)
    with patch(model, {f"blocks.1.{part}[2]": zero}):
        assert_near(logits_of(model, ids), expected, tolerance=1e-5)
    assert not torch.allclose(logits_of(model, ids), expected, atol=1e-2)


@slot_kinds
def test_without_slots_only_the_window_is_left(model: Any, ids: Tensor) -> None:
    """Nothing written to them is as nothing read from them, with the near tokens weighing more."""
    settings = model.config.to_dict() | {"k": 0, "projection": "content"}
    alone = type(model)(type(model.config).from_dict(settings)).eval()
    weights = {name: of for name, of in model.state_dict().items() if not name.endswith(".write")}
    alone.load_state_dict(weights)
    with patch(model, {"blocks.*.attention.slots.write": zero}):
        assert_near(logits_of(model, ids), logits_of(alone, ids), tolerance=1e-5)


@every_kind
def test_replace_puts_another_texts_tensor_in_place(model: Any, ids: Tensor) -> None:
    """The last block's output of one text, patched into another, yields the logits of the first."""
    other = ids.flip(1)
    told = trace(model, other, ["blocks.1.residual", "embed"])
    for name in told.tensors:
        with patch(model, {name: replace(told[name].double())}):  # as the model's own dtype
            assert_near(logits_of(model, ids), logits_of(model, other), name, tolerance=1e-5)


@every_kind
def test_add_adds_a_vector_at_every_token(model: Any, ids: Tensor) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    expected = plain_logits(model, ids, {"blocks.0.residual": lambda stream: stream + vector})
    with patch(model, {"blocks.0.residual": add(vector)}):
        assert_near(logits_of(model, ids), expected)


@every_kind
def test_a_vector_can_be_learned_through_a_patch(model: Any, ids: Tensor) -> None:
    row = ids[0]
    learned, plain = (torch.zeros(32, requires_grad=True) for _ in range(2))
    with patch(model, {"blocks.0.residual[3:]": add(learned)}):
        model(row[None], labels=row[None]).loss.backward()

    def added(stream: Tensor) -> Tensor:
        return torch.cat([stream[:3], stream[3:] + plain])

    parts = plain_parts(model, row, {"blocks.0.residual": added})
    plain_loss(parts["logits"], row).backward()
    assert_near(learned.grad, plain.grad)


# Where an edit applies


@one_of_each_sort
@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("attention.heads[2]", (2,)),
        ("attention.heads[1:3, -1]", (slice(1, 3), -1)),
        ("attention.heads[ 0 , 2:-2 , ::3 ]", (0, slice(2, -2), slice(None, None, 3))),
        ("attention.pattern[0]", (0,)),
        ("attention.pattern[:, 4, :2]", (slice(None), 4, slice(None, 2))),
        ("attention.query[-1]", (-1,)),
        ("attention.key[1:, 5]", (slice(1, None), 5)),
        ("attention.value[0, :, 3]", (0, slice(None), 3)),
        ("residual[-1]", (-1,)),
        ("residual_mid[4:6]", (slice(4, 6),)),
        ("mlp.hidden[:, 7]", (slice(None), 7)),
    ],
)
def test_an_index_picks_along_the_axes_after_the_batch(
    model: Any, ids: Tensor, written: str, place: Place
) -> None:
    shapes = []

    def edit(part: Tensor) -> Tensor:
        shapes.append(tuple(part.shape))
        return part * 0.5 + 1

    def plainly(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[place] = tensor[place] * 0.5 + 1
        return changed

    name = f"blocks.0.{written.partition('[')[0]}"
    expected = plain_logits(model, ids, {name: plainly})
    with patch(model, {f"blocks.0.{written}": edit}):
        assert_near(logits_of(model, ids), expected)
    with torch.no_grad():
        part = plain_parts(model, ids[0])[name][place]
    assert shapes == [(2, *part.shape)]
    assert not torch.allclose(expected, logits_of(model, ids), atol=1e-4)


def test_stars_reach_every_layer(model: LumiereForCausalLM, ids: Tensor) -> None:
    expected = logits_of(without_head(without_head(model, layer=0, head=3), layer=1, head=3), ids)
    with patch(model, {"blocks.*.attention.heads[3]": zero}):
        assert_near(logits_of(model, ids), expected)


def test_edits_of_one_tensor_follow_each_other(model: LumiereForCausalLM, ids: Tensor) -> None:
    stream = trace(model, ids, ["blocks.0.residual"])["blocks.0.residual"]
    one = add(torch.ones(32))
    for edits, expected in [
        ({"blocks.*.residual": one, "blocks.0.residual": halved}, (stream + 1) / 2),
        ({"blocks.0.residual": halved, "blocks.*.residual": one}, stream / 2 + 1),
        ({"blocks.0.residual[-1]": one, "blocks.0.residual[:]": halved}, None),
    ]:
        if expected is None:
            expected = stream / 2
            expected[:, -1] += 0.5
        with patch(model, edits):
            assert_near(trace(model, ids, ["blocks.0.residual"])["blocks.0.residual"], expected)


def test_nested_patches_follow_each_other_and_end_one_by_one(
    model: LumiereForCausalLM, ids: Tensor
) -> None:
    def stream() -> Tensor:
        return trace(model, ids, ["blocks.0.residual"])["blocks.0.residual"]

    plain, one = stream(), add(torch.ones(32))
    with patch(model, {"blocks.0.residual": one}):
        with patch(model, {"blocks.0.residual": halved, "blocks.1.mlp.out": zero}):
            assert_near(stream(), (plain + 1) / 2)
        assert_near(stream(), plain + 1)
        with patch(model, {"blocks.0.residual": halved}), patch(model, {"blocks.*.residual": one}):
            assert_near(stream(), (plain + 1) / 2 + 1)
    assert torch.equal(stream(), plain)


def test_patches_may_end_in_any_order(model: LumiereForCausalLM, ids: Tensor) -> None:
    before = logits_of(model, ids)
    first, second = ExitStack(), ExitStack()
    first.enter_context(patch(model, {"blocks.0.residual": halved}))
    second.enter_context(patch(model, {"blocks.1.attention.heads[2]": zero}))
    first.close()
    assert_near(logits_of(model, ids), logits_of(without_head(model, layer=1, head=2), ids))
    second.close()
    assert torch.equal(logits_of(model, ids), before)
    assert hook_count(model) == 0


@every_kind
def test_a_trace_inside_a_patch_shows_what_the_model_goes_on_with(model: Any, ids: Tensor) -> None:
    """The edited tensors and everything computed from them."""
    row = ids[0]
    edits = {
        "blocks.0.attention.pattern": halved,
        "blocks.0.attention.heads": tilted,
        "blocks.0.mlp.hidden": halved,
        "blocks.1.attention.key": tilted,
        "blocks.1.residual_mid": halved,
    }
    parts = plain_parts(model, row, edits)
    with patch(model, edits):
        traced = trace(model, row, ["*"])
    for name, expected in parts.items():
        assert_near(traced[name][0], expected, name)
    assert_near(traced.logits[0], parts["logits"])


def test_only_the_model_that_is_named_is_patched(ids: Tensor) -> None:
    model, twin = make_model("lumiere"), make_model("lumiere")
    with patch(model, {"blocks.0.residual": zero}):
        assert hook_count(twin) == 0
        assert not torch.allclose(logits_of(model, ids), logits_of(twin, ids), atol=1e-2)
        with patch(twin, {"blocks.0.residual": zero}):
            assert torch.equal(logits_of(model, ids), logits_of(twin, ids))


# The end of a patch


@every_kind
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_ends_a_patch(model: Any, ids: Tensor, error: type[BaseException]) -> None:
    def fail(tensor: Tensor) -> Tensor:
        raise error("from within")

    before = logits_of(model, ids)
    with pytest.raises(error, match="from within"), patch(model, {"*.pattern": halved}):
        raise error("from within")
    assert hook_count(model) == 0
    for name in inspect_names(model):
        with pytest.raises(error, match="from within"), patch(model, {name: fail}):
            logits_of(model, ids)
        assert hook_count(model) == 0
    assert torch.equal(logits_of(model, ids), before)


def test_an_error_in_an_edit_leaves_other_patches_open(
    model: LumiereForCausalLM, ids: Tensor
) -> None:
    with patch(model, {"blocks.0.attention.pattern[1]": zero}):
        expected = logits_of(model, ids)
        with pytest.raises(UserError), patch(model, {"blocks.0.residual_mid[99]": zero}):
            logits_of(model, ids)
        assert torch.equal(logits_of(model, ids), expected)
    assert_near(expected, logits_of(without_head(model, layer=0, head=1), ids))


def test_a_name_that_is_not_there_opens_nothing(model: LumiereForCausalLM) -> None:
    with (
        pytest.raises(UserError, match=r"no tensor called 'blocks\.0\.slots'"),
        patch(model, {"embed": zero, "blocks.0.slots": zero}),
    ):
        pass
    assert hook_count(model) == 0


# Means


@one_of_each_sort
@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("attention.query", ()),
        ("attention.value[1]", (1,)),
        ("attention.heads[2]", (2,)),
        ("attention.mixed[1:3]", (slice(1, 3),)),
        ("attention.key[:, :, 2]", (slice(None), slice(None), 2)),
        ("mlp.hidden", ()),
        ("mlp.out[:, 5:9]", (slice(None), slice(5, 9))),
        ("residual", ()),
    ],
)
@pytest.mark.parametrize("pads", [False, True])
def test_a_mean_is_over_all_rows_and_tokens_but_pads(
    model: Any,
    written: str,
    place: Place,
    rows: list[list[int]],
    ids: Tensor,
    pads: bool,
    padded: dict[str, Tensor],
) -> None:
    texts = [torch.tensor(row) for row in rows] if pads else list(ids)
    name = f"blocks.0.{written.partition('[')[0]}"
    with torch.no_grad():
        tokens = torch.cat([plain_parts(model, text)[name] for text in texts], dim=-2)

    def plainly(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[place] = tokens.mean(-2, keepdim=True).expand_as(tensor)[place]
        return changed

    with patch(model, {f"blocks.0.{written}": mean}):
        if pads:
            mask = padded["attention_mask"]
            traced = trace(model, padded["input_ids"], attention_mask=mask)
        else:
            traced = trace(model, ids)
    for logits, text in zip(traced.logits, texts, strict=True):
        with torch.no_grad():
            expected = plain_parts(model, text, {name: plainly})["logits"]
        assert_near(logits[-len(text) :], expected)


def test_numbers_will_do_for_tensors(model: Any, ids: Tensor) -> None:
    name = "blocks.0.mlp.out"
    before = trace(model, ids, [name])[name]
    with patch(model, {name: replace(0.5)}):
        assert (trace(model, ids, [name])[name] == 0.5).all()
    with patch(model, {name: add(2.0)}):
        assert torch.equal(trace(model, ids, [name])[name], before + 2)


def test_nothing_stays_where_hooks_could_not_all_be_set(
    model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model(ids).logits

    def interrupted(self: AttentionHooks) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(AttentionHooks, "install", interrupted)
        with pytest.raises(KeyboardInterrupt), patch(model, {"embed": zero}):
            pass
    assert hook_count(model) == 0
    assert torch.equal(model(ids).logits, before)
    assert torch.equal(trace(model, ids).logits, before)


def test_a_means_mask_is_that_of_its_pass(model: Any, padded: dict[str, Tensor]) -> None:
    with patch(model, {"blocks.0.mlp.out": mean}):
        model(**padded)
        hidden = model.model(padded["input_ids"][:, :7]).last_hidden_state
        alone = model.model(padded["input_ids"][:, :7], attention_mask=None).last_hidden_state
    assert torch.equal(hidden, alone)
