"""Names of inner tensors: completeness, order, shapes, and errors for unknown names."""

import re
from typing import Any

import pytest
import torch
from inspectable import KINDS, LOW_RANK, WITH_SLOTS, every_kind
from plain_parts import plain_parts
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from lumenspark.errors import UserError
from lumenspark.inspect import inspect_names, patch, trace
from lumenspark.models import LumiereForCausalLM

IN_A_BLOCK = [
    "attention.input",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.pattern",
    "attention.mixed",
    "attention.heads",
    "attention.out",
    "residual_mid",
    "mlp.input",
    "mlp.up",
    "mlp.hidden",
    "mlp.out",
    "residual",
]
GATED = ["lumiere", "llama"]


def expected_names(kind: str) -> set[str]:
    in_a_block = list(IN_A_BLOCK)
    if kind in GATED:
        in_a_block.append("mlp.gate")
    if kind in WITH_SLOTS:
        in_a_block += ["attention.slots.write", "attention.slots.read"]
    names = {f"blocks.{layer}.{name}" for layer in range(2) for name in in_a_block}
    return names | {"embed", "final_norm", "logits"}


@every_kind
def test_every_model_has_the_names_of_its_parts(model: Any, kind: str) -> None:
    assert set(inspect_names(model)) == expected_names(kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("gpt2", "llama")])
def test_our_models_list_their_names_themselves(model: Any) -> None:
    assert model.inspect_names() == inspect_names(model)
    assert list(model.inspect_names()) == list(inspect_names(model))


@every_kind
def test_every_name_can_be_traced_and_has_the_shape_it_is_listed_with(
    model: Any, ids: Tensor
) -> None:
    traced = trace(model, ids, ["*"])
    length = {"B": 2, "T": 11, "S": 11}
    for name, shape in inspect_names(model).items():
        assert tuple(traced[name].shape) == tuple(length.get(size, size) for size in shape), name


@every_kind
def test_names_stand_in_the_order_in_which_the_tensors_come_to_be(model: Any, ids: Tensor) -> None:
    names = list(inspect_names(model))
    assert names == list(plain_parts(model, ids[0]))
    assert names == list(trace(model, ids, reversed(names)).tensors)


@every_kind
@torch.no_grad()
def test_shapes_while_a_cache_is_filled(model: Any, kind: str, ids: Tensor) -> None:
    """T counts input tokens, S tokens attended to."""
    shapes: list[dict[str, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def edit(tensor: Tensor) -> Tensor:
            if name == "embed":
                shapes.append({})
            shapes[-1][name] = tuple(tensor.shape)
            return tensor

        return edit

    names = inspect_names(model)
    if kind in LOW_RANK:  # its cache cannot say what single tokens were
        names = {name: of for name, of in names.items() if "slots" not in name and "S" not in of}
    with patch(model, {name: note(name) for name in names}):
        model.generate(ids, max_new_tokens=3, do_sample=False)
    assert len(shapes) == 3
    for step, seen in enumerate(shapes):
        length = {"B": 2, "T": 11 if step == 0 else 1, "S": 11 + step}
        for name, shape in names.items():
            if name == "logits":  # generate asks for the last token's only
                assert seen[name] == (2, 1, 300)
            else:
                assert seen[name] == tuple(length.get(size, size) for size in shape), name


def test_another_family_is_an_error() -> None:
    config = GPTNeoXConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    model = GPTNeoXForCausalLM(config)
    expected = "a GPTNeoXForCausalLM cannot be inspected.*lumiere, lumenspark, gpt2, llama"
    with pytest.raises(UserError, match=expected):
        inspect_names(model)
    with pytest.raises(UserError, match=expected):
        trace(model, [5, 6])
    with pytest.raises(UserError, match=expected), patch(model, {"embed": torch.zeros_like}):
        pass


def test_a_module_that_is_no_model_is_an_error() -> None:
    with pytest.raises(UserError, match="a Linear cannot be inspected"):
        inspect_names(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["lumiere", "content", "gpt2"])
def test_a_backbone_without_its_output_layer_is_an_error(model: Any) -> None:
    backbone = model.base_model
    with pytest.raises(UserError, match=f"a {type(backbone).__name__} cannot be inspected"):
        inspect_names(backbone)


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("blocks.0.attention.patern", "blocks.0.attention.pattern"),
        ("blocks.1.attention.querry", "blocks.1.attention.query"),
        ("block.*.mlp.gate", "blocks.0.mlp.gate"),
        ("finalnorm", "final_norm"),
    ],
)
def test_an_unknown_name_is_an_error_that_gives_the_nearest(
    model: LumiereForCausalLM, ids: Tensor, written: str, nearest: str
) -> None:
    message = f"no tensor called {written!r} (did you mean {nearest}?): inspect_names lists them"
    with pytest.raises(UserError, match=re.escape(message)):
        trace(model, ids, [written])
    with (
        pytest.raises(UserError, match=re.escape(message)),
        patch(model, {written: torch.zeros_like}),
    ):
        pass


def test_a_name_like_no_other_is_an_error_without_a_hint(
    model: LumiereForCausalLM, ids: Tensor
) -> None:
    with pytest.raises(UserError, match="no tensor called 'zzz': inspect_names lists them"):
        trace(model, ids, ["zzz"])


def test_one_unknown_name_among_others_is_an_error(model: LumiereForCausalLM, ids: Tensor) -> None:
    with pytest.raises(UserError, match="slots"):
        trace(model, ids, ["embed", "blocks.*.attention.slots.write"])


def test_a_string_in_place_of_a_list_of_names_is_an_error(
    model: LumiereForCausalLM, ids: Tensor
) -> None:
    with pytest.raises(UserError, match=r"names must be a list: write names=\['logits'\]"):
        trace(model, ids, "logits")


def test_stars_match_anything_and_names_come_once(model: LumiereForCausalLM, ids: Tensor) -> None:
    traced = trace(model, ids, ["*.pattern", "blocks.1.*", "blocks.1.attention.*"])
    own = [name for name in inspect_names(model) if name.startswith("blocks.1.")]
    assert list(traced.tensors) == ["blocks.0.attention.pattern", *own]
