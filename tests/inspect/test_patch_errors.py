"""Errors of patches: names, indices, results."""

import re
from typing import Any

import pytest
import torch
from inspectable import every_kind, hook_count, logits_of
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect import mean, patch, replace, trace, zero
from lumenspark.models import LumiereForCausalLM


@every_kind
def test_the_mean_of_a_pattern_is_an_error(model: Any) -> None:
    for written in ("blocks.0.attention.pattern", "*.pattern", "blocks.1.attention.pattern[2]"):
        with (
            pytest.raises(UserError, match=r"the mean of blocks\.\d\.attention\.pattern over"),
            patch(model, {written: mean}),
        ):
            pass


@pytest.mark.parametrize(
    "written",
    [
        "residual[-1]",
        "residual[2:5]",
        "attention.heads[2, -1]",
        "attention.heads[:, 3]",
        "attention.query[1:3, 4:]",
        "mlp.hidden[3, 7]",
    ],
)
@pytest.mark.parametrize("pads", [False, True])
def test_the_mean_where_an_index_picks_tokens_is_an_error(
    model: LumiereForCausalLM, padded: dict[str, Tensor], written: str, pads: bool
) -> None:
    mask = {"attention_mask": padded["attention_mask"]} if pads else {}
    with (
        pytest.raises(UserError, match=r"selects tokens, but the mean is over all tokens"),
        patch(model, {f"blocks.0.{written}": mean}),
    ):
        logits_of(model, padded["input_ids"], **mask)


@pytest.mark.parametrize(
    ("result", "described"),
    [
        (torch.zeros(5), r"\(5,\)"),
        (torch.zeros(2, 11, 31), r"\(2, 11, 31\)"),
        (torch.zeros(3, 2, 11, 32), r"\(3, 2, 11, 32\)"),
        (None, "NoneType"),
        (0.0, "float"),
    ],
    ids=["vector", "width", "axes", "none", "number"],
)
def test_a_result_that_does_not_fit_is_an_error(
    model: LumiereForCausalLM, ids: Tensor, result: Any, described: str
) -> None:
    expected = rf"of blocks.0.residual returned {described}: .* of shape \(2, 11, 32\)"
    with (
        pytest.raises(UserError, match=expected),
        patch(model, {"blocks.0.residual": lambda stream: result}),
    ):
        logits_of(model, ids)


@pytest.mark.parametrize(
    "shape", [(), (1,), (32,), (11, 1), (11, 32), (1, 11, 32), (2, 1, 32), (2, 11, 32)], ids=str
)
def test_a_result_of_any_shape_that_broadcasts_fits(
    model: LumiereForCausalLM, ids: Tensor, shape: tuple[int, ...]
) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with patch(model, {"blocks.0.residual": replace(value)}):
        seen = trace(model, ids, ["blocks.0.residual"])["blocks.0.residual"]
    assert torch.equal(seen, value.expand(2, 11, 32))


@pytest.mark.parametrize(
    ("index", "shape"),
    [("[4]", "(2, 4, 11, 8)"), ("[-5]", "(2, 4, 11, 8)"), ("[0, 11]", "(2, 4, 11, 8)"),
     ("[0, 0, 0, 0]", "(2, 4, 11, 8)")],
)  # fmt: skip
def test_an_index_out_of_range_is_an_error(
    model: LumiereForCausalLM, ids: Tensor, index: str, shape: str
) -> None:
    name = "blocks.0.attention.query"
    with (
        pytest.raises(UserError) as error,
        patch(model, {f"{name}{index}": zero}),
    ):
        logits_of(model, ids)
    assert str(error.value) == f"{index} is out of range: {name} has shape {shape}"


@pytest.mark.parametrize(
    "written",
    ["", "[1]", "embed[]", "embed[", "embed]", "embed[1", "embed[a]", "embed[1.5]", "embed[1,]",
     "embed[1][2]", "embed[1]x", "embed[...]", "embed[None]", "embed[1:2:3:4]", "embed[a:b]",
     "embed[::0]", "embed[::-1]"],
)  # fmt: skip
def test_a_malformed_name_is_an_error(model: LumiereForCausalLM, ids: Tensor, written: str) -> None:
    with pytest.raises(UserError, match="is not a tensor name"), patch(model, {written: zero}):
        logits_of(model, ids)
    assert hook_count(model) == 0


@pytest.mark.parametrize("edit", [0, 1.5, "zero", None, [0.0], torch.zeros(1)], ids=repr)
def test_an_edit_that_is_no_function_is_an_error_that_says_what_one_is(
    edit: Any, model: Any
) -> None:
    """Before anything runs, with and without an index. A number could mean two things."""
    for name in ("blocks.0.attention.heads[0]", "blocks.*.residual"):
        with pytest.raises(UserError) as raised, patch(model, {name: edit}):
            pass
        message = str(raised.value)
        assert message.startswith(f"the edit of {name} is a {type(edit).__name__}: give a function")
        assert "zero" in message
        assert "replace(" in message
        assert "\n" not in message


@pytest.mark.parametrize("edits", [None, "blocks.0.residual", ["blocks.0.residual"], 0], ids=repr)
def test_edits_that_are_no_mapping_are_an_error(edits: Any, model: Any) -> None:
    message = 'give them by name, such as {"blocks.0.attention.heads[0]": zero}'
    with pytest.raises(UserError, match=re.escape(message)), patch(model, edits):
        pass
