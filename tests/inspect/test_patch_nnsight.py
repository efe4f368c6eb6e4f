"""The same interventions with nnsight give the same logits."""

from typing import Any

import pytest
import torch
from inspectable import attention_output, blocks_of, every_kind, logits_of
from nnsight import NNsight
from torch import Tensor

from lumenspark.inspect import add, patch, replace, trace, zero

HEAD = 2


@every_kind
def test_a_head_is_taken_away(model: Any, ids: Tensor) -> None:
    size = getattr(model.config, "head_dim", 8)
    own = slice(HEAD * size, (HEAD + 1) * size)
    inside = NNsight(model)
    with torch.no_grad(), inside.trace(ids):
        attention_output(inside, 1).input[..., own] = 0
        expected = inside.output.logits.save()
    for part, tolerance in (("mixed", 0.0), ("heads", 1e-5), ("pattern", 1e-5)):
        with patch(model, {f"blocks.1.attention.{part}[{HEAD}]": zero}):
            logits = logits_of(model, ids)
        torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    assert not torch.allclose(expected, logits_of(model, ids), atol=0.01)


@every_kind
@pytest.mark.parametrize("token", [4, slice(None)], ids=["one token", "all tokens"])
def test_a_blocks_output_is_replaced(model: Any, ids: Tensor, token: int | slice) -> None:
    other = ids.flip(1)
    inside = NNsight(model)
    tuples = isinstance(run_block(model, ids), tuple)
    with torch.no_grad(), inside.trace(other):
        output = blocks_of(inside)[0].output
        clean = (output[0] if tuples else output)[:, token].clone().save()
    with torch.no_grad(), inside.trace(ids):
        output = blocks_of(inside)[0].output
        (output[0] if tuples else output)[:, token] = clean
        expected = inside.output.logits.save()

    name = "blocks.0.residual"
    ours = trace(model, other, [name])[name][:, token]
    assert torch.equal(ours, clean)
    written = f"{name}[{token}]" if isinstance(token, int) else name
    with patch(model, {written: replace(ours)}):
        assert torch.equal(logits_of(model, ids), expected)
    assert not torch.allclose(expected, logits_of(model, ids), atol=0.01)


@every_kind
def test_a_vector_is_added(model: Any, ids: Tensor) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(2))
    inside = NNsight(model)
    tuples = isinstance(run_block(model, ids), tuple)
    with torch.no_grad(), inside.trace(ids):
        output = blocks_of(inside)[0].output
        (output[0] if tuples else output)[:] += vector
        expected = inside.output.logits.save()
    with patch(model, {"blocks.0.residual": add(vector)}):
        assert torch.equal(logits_of(model, ids), expected)
    assert not torch.allclose(expected, logits_of(model, ids), atol=0.01)


def run_block(model: Any, ids: Tensor) -> Any:
    """A block's output: the stream, alone or first of a tuple."""
    seen = []
    with blocks_of(model)[0].register_forward_hook(lambda *call: seen.append(call[-1])):
        logits_of(model, ids)
    return seen[0]
