"""TransformerLens' names lead to the same tensors as ours, in traces, gradients and patches.

That the tensors equal TransformerLens' own is shown in test_transformer_lens.py.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from inspectable import every_kind, logits_of, one_of_each_sort
from torch import Tensor

import lumenspark
from lumenspark.errors import UserError
from lumenspark.inspect import (
    activation_patching,
    inspect_names,
    patch,
    steering_vector,
    trace,
    zero,
)
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.transformer_lens_names import TABLE, counterparts, nearest_tensors

GUIDE = Path(__file__).parents[2] / "docs" / "looking-inside.md"


@every_kind
def test_each_name_gives_the_tensor_of_its_counterpart(model: Any, ids: Tensor) -> None:
    everything = trace(model, ids, ["*"])
    names = counterparts(architecture_of(model))
    assert set(names.values()) <= set(inspect_names(model))
    for theirs, ours in names.items():
        found = trace(model, ids, [theirs])
        assert list(found.tensors) == [ours]
        assert torch.equal(found[theirs], everything[ours]), theirs
        assert found[theirs] is found[ours] is found.tensors[theirs]


@every_kind
def test_names_without_an_equal_are_errors_that_give_the_nearest(model: Any, ids: Tensor) -> None:
    names = nearest_tensors(architecture_of(model))
    assert set(names.values()) <= set(inspect_names(model))
    for theirs, ours in names.items():
        message = f"TransformerLens' {theirs} has no equal .* the nearest is {re.escape(ours)}$"
        with pytest.raises(UserError, match=message):
            trace(model, ids, [theirs])
        with pytest.raises(UserError, match=message), patch(model, {theirs: zero}):
            pass


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        ("lumiere", "blocks.0.hook_resid_pre", "embed"),
        ("lumiere", "blocks.1.hook_resid_pre", "blocks.0.residual"),
        ("lumiere", "blocks.0.hook_resid_post", "blocks.0.residual"),
        ("lumiere", "blocks.0.attn.hook_pattern", "blocks.0.attention.pattern"),
        ("lumiere", "blocks.0.mlp.hook_pre", "blocks.0.mlp.gate"),
        ("llama", "blocks.0.mlp.hook_pre_linear", "blocks.0.mlp.up"),
        ("gpt2", "blocks.0.mlp.hook_pre", "blocks.0.mlp.up"),
        ("content", "blocks.0.mlp.hook_pre", "blocks.0.mlp.up"),
        ("llama", "hook_embed", "embed"),
    ],
)
def test_names_that_depend_on_the_model(model: Any, ids: Tensor, theirs: str, ours: str) -> None:
    assert list(trace(model, ids, [theirs]).tensors) == [ours]


def test_token_embeddings_alone_are_no_tensor_of_a_model_with_learned_positions(
    model: Any, ids: Tensor
) -> None:
    with pytest.raises(UserError, match=r"hook_embed has no equal .* the nearest is embed"):
        trace(model, ids, ["hook_embed"])


def test_stars_match_their_names_where_they_match_none_of_ours(model: Any, ids: Tensor) -> None:
    found = trace(model, ids, ["blocks.*.hook_resid_pre", "*.hook_pattern"])
    assert list(found.tensors) == [
        "embed",
        "blocks.0.attention.pattern",
        "blocks.0.residual",
        "blocks.1.attention.pattern",
    ]
    of_block_1 = trace(model, ids, ["blocks.1.*"]).tensors
    assert all(name.startswith("blocks.1.") for name in of_block_1)  # not their hook_resid_pre


def test_gradients_are_found_by_their_names(model: Any, ids: Tensor) -> None:
    found = trace(model, ids, ["blocks.0.attn.hook_z"], gradients=True)
    assert found.gradients["blocks.0.attn.hook_z"] is found.gradients["blocks.0.attention.mixed"]
    with pytest.raises(UserError, match=r"blocks\.1\.attn\.hook_z was not requested"):
        found.gradients["blocks.1.attn.hook_z"]


@one_of_each_sort
def test_patches_by_their_names_change_the_same_tensors(model: Any, ids: Tensor) -> None:
    for theirs, ours in counterparts(architecture_of(model)).items():
        logits = []
        for name in (theirs, ours):
            with patch(model, {f"{name}[1]": zero}):
                logits.append(logits_of(model, ids))
        assert torch.equal(*logits), theirs
    assert not torch.equal(logits[0], logits_of(model, ids))


def test_activation_patching_and_steering_take_their_names(model: Any, ids: Tensor) -> None:
    texts = ids[:1], ids[1:]
    for theirs, ours in (("hook_resid_post", "residual"), ("attn.hook_z", "attention.mixed")):
        by_theirs = activation_patching(model, *texts, 7, 9, tensor=theirs)
        assert torch.equal(
            by_theirs.effects, activation_patching(model, *texts, 7, 9, tensor=ours).effects
        )
    before = activation_patching(model, *texts, 7, 9, tensor="hook_resid_pre")
    assert before.effects.shape == (2, 11)


def test_a_steering_vector_takes_their_name(trained: Path) -> None:
    model, _ = lumenspark.load(str(trained))
    vectors = [
        steering_vector(model, ["a list"], ["b"], name)
        for name in ("blocks.0.hook_resid_post", "blocks.0.residual")
    ]
    assert torch.equal(*vectors)


def guide_table() -> str:
    """The table of docs/looking-inside.md."""
    lines = ["| TransformerLens | lumenspark | equal in |", "|---|---|---|"]
    for row in TABLE:
        theirs = ", ".join(f"`{name}`" for name in row.theirs)
        ours = f"`{row.ours}`" if row.equal_in != "no model" else f"nearest: `{row.ours}`"
        lines.append(f"| {theirs} | {ours} | {row.equal_in} |")
    return "\n".join(lines)


def test_the_guide_holds_the_table() -> None:
    assert guide_table() in GUIDE.read_text(encoding="utf-8"), guide_table()
