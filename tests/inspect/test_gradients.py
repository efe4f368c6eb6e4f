"""Gradients of inner tensors equal those of plain torch, also together with patches."""

from typing import Any

import pytest
import torch
from inspectable import (
    assert_near,
    blocks_of,
    every_kind,
    slot_kinds,
)
from plain_parts import plain_loss, plain_parts
from torch import Tensor

from lumenspark.inspect import add, inspect_names, patch, trace
from lumenspark.models import LumiereForCausalLM


@every_kind
def test_gradients_equal_those_of_plain_torch(model: Any, ids: Tensor) -> None:
    """The gradients of all names, from one pass."""
    model.double()
    row = ids[0]
    traced = trace(model, row, ["*"], gradients=True)
    parts = plain_parts(model, row)
    expected = torch.autograd.grad(plain_loss(parts["logits"], row), list(parts.values()))
    for (name, tensor), gradient in zip(parts.items(), expected, strict=True):
        assert traced.gradients[name].shape == traced[name].shape == (1, *tensor.shape)
        assert_near(traced.gradients[name][0].double(), gradient, name)


@every_kind
def test_a_gradient_does_not_depend_on_what_else_is_asked_for(model: Any, ids: Tensor) -> None:
    everything = trace(model, ids, ["*"], gradients=True).gradients
    for name in inspect_names(model):
        (alone,) = trace(model, ids, [name], gradients=True).gradients.values()
        assert_near(alone, everything[name], name, tolerance=1e-5)


@every_kind
def test_gradients_of_a_padded_batch_are_those_of_the_mean_over_all_its_tokens(
    model: Any, rows: list[list[int]], padded: dict[str, Tensor]
) -> None:
    """6 and 10 tokens are predicted, so the rows count 6/16 and 10/16."""
    traced = trace(
        model, padded["input_ids"], ["*"], attention_mask=padded["attention_mask"], gradients=True
    )
    for row, tokens in enumerate(rows):
        alone = trace(model, tokens, ["*"], gradients=True)
        pads, share = 11 - len(tokens), (len(tokens) - 1) / 16
        for name, shape in inspect_names(model).items():
            own = traced.gradients[name][row].movedim(shape.index("T") - 1, 0)[pads:]
            own = own[..., pads:] if "S" in shape else own
            expected = alone.gradients[name][0].movedim(shape.index("T") - 1, 0) * share
            assert_near(own, expected, name, tolerance=1e-3)


@every_kind
def test_gradients_of_the_stream_are_those_that_torch_retains(model: Any, ids: Tensor) -> None:
    kept = []

    def retain(module: Any, inputs: Any, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        stream.retain_grad()
        kept.append(stream)

    with blocks_of(model)[0].register_forward_hook(retain):
        model(ids, labels=ids).loss.backward()
    traced = trace(model, ids, ["blocks.0.residual"], gradients=True)
    assert_near(traced.gradients["blocks.0.residual"], kept[0].grad, tolerance=1e-5)


@every_kind
def test_gradients_say_what_a_small_change_does(model: Any, ids: Tensor) -> None:
    """Along a direction in one tensor, by central differences through a patch."""
    model.double()
    noise = torch.Generator().manual_seed(1)
    step = 1e-3
    traced = trace(model, ids, ["*"], gradients=True)
    for name, gradient in traced.gradients.items():
        direction = torch.randn(gradient.shape, generator=noise, dtype=torch.float64)
        if name.endswith(("pattern", "write", "read")):
            direction = direction * (traced[name] != 0)
        losses = []
        for side in (step, -step):
            with patch(model, {name: add(side * direction)}):
                losses.append(trace(model, ids).mean_loss)
        up, down = losses
        slope = float((gradient * direction).sum())
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=1e-2, abs=1e-3), name


@slot_kinds
@pytest.mark.parametrize("part", ["slots.write", "slots.read", "pattern", "value", "mixed"])
def test_gradients_of_slots_go_through_what_a_patch_makes_of_them(
    model: Any, ids: Tensor, part: str
) -> None:
    name, row = "blocks.0.attention", ids[0]
    edits = {f"{name}.{part}": lambda tensor: tensor / 2}
    asked = [f"{name}.slots.write", f"{name}.slots.read", f"{name}.pattern", f"{name}.query"]
    with patch(model, edits):
        traced = trace(model, row, asked, gradients=True)
    parts = plain_parts(model, row, edits)
    expected = torch.autograd.grad(
        plain_loss(parts["logits"], row), [parts[wanted] for wanted in asked]
    )
    for wanted, gradient in zip(asked, expected, strict=True):
        assert_near(traced[wanted][0], parts[wanted], wanted)
        assert_near(traced.gradients[wanted][0], gradient, wanted)


@every_kind
def test_gradients_do_not_need_those_of_the_weights(model: Any, ids: Tensor) -> None:
    expected = trace(model, ids, ["*"], gradients=True).gradients
    gradients = trace(model.requires_grad_(False), ids, ["*"], gradients=True).gradients
    assert list(gradients) == list(expected)
    for name, gradient in gradients.items():
        assert_near(gradient, expected[name], name, tolerance=1e-5)


def test_gradients_where_torch_makes_none(model: LumiereForCausalLM, ids: Tensor) -> None:
    (expected,) = trace(model, ids, ["embed"], gradients=True).gradients.values()
    with torch.no_grad():
        (gradient,) = trace(model, ids, ["embed"], gradients=True).gradients.values()
        assert not torch.is_grad_enabled()
    assert torch.equal(gradient, expected)
