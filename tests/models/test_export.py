"""Traced or exported, a model computes what it did, or says that it cannot be."""

import copy
import pickle
from pathlib import Path
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
    small_config,
)
from torch import Tensor

dense_attention = pytest.mark.parametrize(
    ("family", "changes"), [("lumiere", {}), ("lumenspark", {"k": None})], ids=["lumiere", "k=None"]
)
every_model = pytest.mark.parametrize(
    ("family", "changes"),
    [("lumiere", {}), *(("lumenspark", changes) for changes in ATTENTIONS.values())],
    ids=["lumiere", *ATTENTIONS],
)
low_rank_model = pytest.mark.parametrize("family", ["lumenspark"])
SENTENCE = "^low-rank attention cannot be traced or exported"


@pytest.fixture
def config(family: str, changes: dict[str, Any]) -> Config:
    return small_config(family, **changes)


@low_rank_model
@low_rank_attention
@pytest.mark.parametrize("tokens", [3, 11], ids=["two windows", "more"])
def test_low_rank_attention_refuses(model: Model, tmp_path: Path, tokens: int) -> None:
    """On short examples too, where a trace would hold, but on no longer text."""
    ids = torch.arange(3, 3 + tokens)[None]
    model.config.use_cache = False
    for asked in (model, model.model):
        with pytest.raises(ValueError, match=SENTENCE):
            torch.jit.trace(asked, ids)
    with pytest.raises(ValueError, match=SENTENCE):
        torch.export.export(model, (ids,), strict=False)
    positions = torch.arange(ids.shape[1])[None]
    with pytest.raises(ValueError, match=SENTENCE):
        torch.export.export(model, (ids,), {"position_ids": positions}, strict=False)
    with pytest.raises(ValueError, match=SENTENCE):
        torch.onnx.export(model, (ids,), str(tmp_path / "model.onnx"), dynamo=False)
    assert not (tmp_path / "model.onnx").exists()
    assert model(ids).logits.shape == (1, tokens, 300)  # and goes on as before


@low_rank_model
@pytest.mark.parametrize("changes", [{}], ids=["content"])
@pytest.mark.slow
def test_low_rank_attention_refuses_a_strict_export(model: Model, ids: Tensor) -> None:
    """By torch's own error, which quotes ours."""
    with pytest.raises(RuntimeError, match="low-rank attention cannot be traced or exported"):
        torch.export.export(model, (ids,), strict=True)


@dense_attention
@pytest.mark.parametrize("attention", ["sdpa", "eager", "matmul"])
def test_a_trace_of_dense_attention_holds_on_other_lengths(model: Model, attention: str) -> None:
    model.set_attn_implementation(attention)
    model.config.use_cache = model.config.return_dict = False
    random = torch.Generator().manual_seed(1)

    def tokens(*shape: int) -> Tensor:
        return torch.randint(3, 300, shape, generator=random)

    with torch.no_grad():
        traced = torch.jit.trace(model, tokens(1, 7), check_trace=False)
        for length in (7, 1, 3, 16):
            ids = tokens(2, length)
            torch.testing.assert_close(traced(ids)[0], model(ids)[0], rtol=1e-4, atol=1e-4)
        with pytest.raises(RuntimeError, match="index out of range"):
            traced(tokens(1, 17))  # past the context

        example = tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
        traced = torch.jit.trace(model, example, check_trace=False)
        ids, mask = tokens(3, 12), torch.ones(3, 12, dtype=torch.long)
        mask[0, :5], mask[1, 9:] = 0, 0
        found, expected = traced(ids, mask)[0], model(ids, mask)[0]
        torch.testing.assert_close(found[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "changes"), [("lumenspark", {"k": None})])
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_dense_attention_is_exported(model: Model, ids: Tensor, strict: bool) -> None:
    length = torch.export.Dim("length", min=2, max=16)
    program = torch.export.export(
        model,
        (ids,),
        {"use_cache": False},
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None},
        strict=strict,
    )
    for width in (11, 4):
        exported = program.module()(ids[:, :width], use_cache=False)
        torch.testing.assert_close(
            exported.logits, model(ids[:, :width]).logits, rtol=1e-4, atol=1e-4
        )


@every_model
def test_copies_compute_the_same(model: Model, ids: Tensor) -> None:
    expected = model(ids).logits
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(ids).logits, expected)
    weights = dict(copy.deepcopy(model).named_parameters())
    fill_with_noise(model, seed=1)
    assert not torch.allclose(model(ids).logits, expected, atol=1e-3)
    called = torch.func.functional_call(model, weights, (ids,), {"use_cache": False})
    torch.testing.assert_close(called.logits, expected)
    parallel = torch.nn.DataParallel(model)
    torch.testing.assert_close(parallel(ids).logits, model(ids).logits)


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes(model: Model, ids: Tensor, dtype: torch.dtype) -> None:
    """In half precision the same up to its rounding, also by autocast."""
    expected = model(ids).logits
    tolerance = 0.3 * float(expected.std())
    if dtype is torch.bfloat16:
        with torch.autocast("cpu", dtype):
            mixed = model(ids).logits
        torch.testing.assert_close(mixed.float(), expected, rtol=0.1, atol=tolerance)
    logits = model.to(dtype)(ids).logits
    assert logits.dtype is dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=tolerance)


@dense_attention
def test_gradients_by_row(model: Model, ids: Tensor) -> None:
    model.train()
    model.config.dropout = 0.0
    weights = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        given = {"labels": row[None], "use_cache": False}
        return torch.func.functional_call(model, weights, (row[None],), given).loss

    by_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, ids)
    expected = torch.autograd.grad(loss(weights, ids[1]), list(weights.values()))
    for gradients, wanted in zip(by_row.values(), expected, strict=True):
        torch.testing.assert_close(gradients[1], wanted, rtol=1e-3, atol=1e-5)


def test_the_config_may_ask_for_tuples(ids: Tensor) -> None:
    model = new_model(small_config("lumiere")).eval()
    expected = model(ids, labels=ids)
    model.config.return_dict = False
    output = model(ids, labels=ids)
    assert type(output) is tuple
    assert torch.equal(output[0], expected.loss)
    assert torch.equal(output[1], expected.logits)
