"""nnsight reads and changes inner tensors of our models without an adapter."""

from typing import Any

import pytest
import torch
from nnsight import NNsight
from small_models import Model, fill_with_noise, new_model, small_config
from torch import Tensor

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lumiere": ("lumiere", {}),
    "lumenspark": ("lumenspark", {}),
    "lumenspark, dense attention": ("lumenspark", {"k": None}),
}
HEAD = slice(16, 24)  # head 2 of four heads of 8


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    """In evaluation mode, with random weights."""
    family, changes = request.param
    return fill_with_noise(new_model(small_config(family, **changes))).eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 300, (2, 11), generator=torch.Generator().manual_seed(5))


def attention_of(block: Any) -> Any:
    """The attention layer of a block or of nnsight's proxy of it."""
    return block.self_attn if hasattr(block, "self_attn") else block.attention


def test_inner_tensors_are_those_that_plain_hooks_see(model: Model, ids: Tensor) -> None:
    seen = {}
    block, attention = model.model.layers[0], attention_of(model.model.layers[1])
    hooks = [
        block.register_forward_hook(lambda *call: seen.update(block=call[-1][0])),
        attention.q_proj.register_forward_hook(lambda *call: seen.update(query=call[-1])),
    ]
    expected = model(ids).logits
    for hook in hooks:
        hook.remove()

    inside = NNsight(model)
    with inside.trace(ids):
        hidden = inside.model.layers[0].output[0].save()
        query = attention_of(inside.model.layers[1]).q_proj.output.save()
        logits = inside.output.logits.save()
    assert torch.equal(hidden, seen["block"])
    assert torch.equal(query, seen["query"])
    assert torch.equal(logits, expected)


def test_attention_weights_are_there_when_asked_for(model: Model, ids: Tensor) -> None:
    expected = model(ids, output_attentions=True).attentions
    inside = NNsight(model)
    with inside.trace(ids, output_attentions=True):
        weights = attention_of(inside.model.layers[1]).output[1].save()
    assert torch.equal(weights, expected[1])


def test_a_head_is_taken_away(model: Model, ids: Tensor) -> None:
    def without_head(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        mixed = inputs[0].clone()
        mixed[..., HEAD] = 0
        return (mixed,)

    before = model(ids).logits
    projection = attention_of(model.model.layers[1]).o_proj
    with projection.register_forward_pre_hook(without_head):
        expected = model(ids).logits

    inside = NNsight(model)
    with inside.trace(ids):
        attention_of(inside.model.layers[1]).o_proj.input[..., HEAD] = 0
        logits = inside.output.logits.save()
    assert torch.equal(logits, expected)
    assert not torch.allclose(logits, before, atol=0.1)
    assert torch.equal(model(ids).logits, before)  # nothing of it stays


def test_a_blocks_output_is_patched_from_another_text(model: Model, ids: Tensor) -> None:
    other = ids.flip(1)
    hidden = model(other, output_hidden_states=True).hidden_states[1][:, 4]

    def patch(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        stream = output[0].clone()
        stream[:, 4] = hidden
        return (stream, *output[1:])

    with model.model.layers[0].register_forward_hook(patch):
        expected = model(ids).logits

    inside = NNsight(model)
    with inside.trace(other):
        clean = inside.model.layers[0].output[0][:, 4].save()
    with inside.trace(ids):
        inside.model.layers[0].output[0][:, 4] = clean
        logits = inside.output.logits.save()
    assert torch.equal(logits, expected)
    assert not torch.allclose(logits, model(ids).logits, atol=0.1)


def test_gradients_of_inner_tensors(model: Model, ids: Tensor) -> None:
    seen = {}
    hook = model.model.layers[0].register_forward_hook(lambda *call: seen.update(block=call[-1][0]))
    with hook:
        loss = model(ids, labels=ids).loss
    (expected,) = torch.autograd.grad(loss, seen["block"])

    inside = NNsight(model)
    with inside.trace(ids, labels=ids):
        hidden = inside.model.layers[0].output[0]
        with inside.output.loss.backward():
            gradient = hidden.grad.save()
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0
