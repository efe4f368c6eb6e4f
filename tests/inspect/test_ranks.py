"""Slot contents and effective ranks."""

import math
from typing import Any

import pytest
import torch
from inspectable import make_model, slot_kinds
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect import effective_ranks, slot_contents, trace


@slot_kinds
def test_a_slot_holds_shares_of_what_was_written_to_it(model: Any, ids: Tensor) -> None:
    contents = slot_contents(model, ids[0], top=3)
    written = 8  # 11 tokens in blocks of 2: the last, of one token, and the one before are near
    name = "blocks.1.attention.slots.write"
    write = trace(model, ids[:1], [name])[name][0]  # (H, T, K)
    assert [len(layer) for layer in contents] == [4, 4]
    for head in range(4):
        for slot, held in enumerate(contents[1][head]):
            shares = write[head, :written, slot] / write[head, :written, slot].sum()
            order = shares.argsort(descending=True)[:3].tolist()
            assert [token.position for token in held] == order
            assert [token.share for token in held] == pytest.approx(
                shares[order].tolist(), rel=1e-4
            )
            assert [token.token for token in held] == [str(int(ids[0, place])) for place in order]


@slot_kinds
def test_a_text_that_fits_the_window_leaves_the_slots_empty(model: Any, ids: Tensor) -> None:
    assert slot_contents(model, ids[0, :4]) == [[[]] * 4] * 2
    assert slot_contents(model, ids[0, :5])[0][0][0][0].position < 2


@pytest.mark.parametrize("kind", ["lumiere", "window alone", "dense", "gpt2"])
def test_models_without_slots_say_so(kind: str, ids: Tensor) -> None:
    with pytest.raises(UserError, match="this model has no slots"):
        slot_contents(make_model(kind), ids[0])


def test_slots_are_shown_for_one_text(ids: Tensor) -> None:
    with pytest.raises(UserError, match="give one text, not 2"):
        slot_contents(make_model("content"), ids)


def test_the_effective_rank_counts_equal_directions() -> None:
    model = make_model("lumiere")
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.q_proj.weight.copy_(3 * torch.linalg.qr(torch.randn(32, 32)).Q)
        attention.k_proj.weight.copy_(torch.outer(torch.randn(32), torch.randn(32)))
        half = torch.zeros(32, 32)
        half[:16, :16] = torch.eye(16)
        attention.v_proj.weight.copy_(half)
        attention.o_proj.weight.zero_()
    ranks = effective_ranks(model)
    names = [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"]
    assert [ranks[name] for name in names] == pytest.approx([32, 1, 16, 0], abs=1e-2)
    assert len(ranks) == 2 * 7


def test_of_low_rank_layers_the_product_counts() -> None:
    model = make_model("content")
    ranks = effective_ranks(model)
    name = "model.layers.1.attention.v_proj"
    layer = model.get_submodule(name)
    with torch.no_grad():
        singular = torch.linalg.svdvals(layer.U.weight @ layer.V.weight)
    shares = (singular / singular.sum()).clamp(min=1e-30)
    assert ranks[name] == pytest.approx(float((-shares * shares.log()).sum().exp()), rel=1e-4)
    assert ranks[name] <= layer.rank
    assert not any(name.endswith((".U", ".V")) for name in ranks)


def test_gpt2s_layers_are_found_too() -> None:
    assert set(effective_ranks(make_model("gpt2"))) == {
        f"transformer.h.{layer}.{name}"
        for layer in (0, 1)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_weights_that_are_no_numbers_have_no_rank() -> None:
    model = make_model("lumiere")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    ranks = effective_ranks(model)
    assert math.isnan(ranks["model.layers.0.mlp.up_proj"])
    assert ranks["model.layers.1.mlp.up_proj"] > 1
