"""A trace keeps the requested tensors, with correct values, and does not change the model."""

from typing import Any

import pytest
import torch
from inspectable import (
    assert_near,
    blocks_of,
    every_kind,
    hook_count,
    low_rank_kinds,
    make_model,
    slot_kinds,
)
from plain_parts import affine, plain_loss, plain_parts
from small_models import new_model, small_config
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect import inspect_names, trace
from lumenspark.inspect.inputs import read_inputs
from lumenspark.models import LumiereForCausalLM

PATTERNS = "blocks.*.attention.pattern"
IMPLEMENTATIONS = [
    (kind, implementation)
    for kind, implementations in {
        "lumiere": ["eager", "sdpa", "matmul", "flex_attention"],
        "dense": ["eager", "sdpa", "matmul", "flex_attention"],
        "gpt2": ["eager", "sdpa"],
        "llama": ["eager", "sdpa", "flex_attention"],
    }.items()
    for implementation in implementations
]

# The model stays what it is


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_logits_are_bit_for_bit_those_without_a_trace(
    model: Any, padded: dict[str, Tensor], dtype: torch.dtype, pads: bool, gradients: bool
) -> None:
    model.to(dtype)
    mask = padded["attention_mask"] if pads else None
    arguments = read_inputs(model, padded["input_ids"], attention_mask=mask).arguments()
    with torch.set_grad_enabled(gradients):
        expected = model(**arguments).logits
    traced = trace(model, padded["input_ids"], ["*"], attention_mask=mask, gradients=gradients)
    assert traced.logits.dtype == dtype
    assert torch.equal(traced.logits, expected)
    assert torch.equal(traced["logits"], expected)
    assert torch.equal(model(**arguments).logits, expected)


@pytest.mark.parametrize(("kind", "implementation"), IMPLEMENTATIONS)
@pytest.mark.parametrize("pads", [False, True])
def test_every_implementation_of_attention_goes_on_unchanged(
    model: Any, padded: dict[str, Tensor], implementation: str, pads: bool
) -> None:
    """Uncompiled flex attention: the compiled form does not run on every CPU."""
    mask = padded["attention_mask"] if pads else None
    real = padded["attention_mask"].bool() if pads else torch.ones(2, 11, dtype=torch.bool)
    plain = trace(model, padded["input_ids"], [PATTERNS], attention_mask=mask)
    model.set_attn_implementation(implementation)
    arguments = read_inputs(model, padded["input_ids"], attention_mask=mask).arguments()
    with torch.compiler.set_stance("force_eager"):
        with torch.no_grad():
            expected = model(**arguments).logits
        traced = trace(model, padded["input_ids"], ["*"], attention_mask=mask)
    assert torch.equal(traced.logits, expected)
    for name in plain.tensors:
        pattern, wanted = (of[name].transpose(1, 2)[real] for of in (traced, plain))
        torch.testing.assert_close(pattern, wanted, rtol=1e-4, atol=1e-5)


@every_kind
def test_a_model_in_training_draws_the_same_dropout(model: Any, ids: Tensor) -> None:
    """Dropout is set for Lumiére and Lumenspark; GPT-2 has its own default, Llama none."""
    model.config.dropout = 0.2
    model.train()
    torch.manual_seed(1)
    expected = model(ids).logits
    torch.manual_seed(1)
    assert torch.equal(trace(model, ids, ["*"], gradients=True).logits, expected)
    assert all(module.training for module in model.modules())


@every_kind
def test_nothing_stays_behind(model: Any, ids: Tensor) -> None:
    before = hook_count(model)
    settings = model.config.to_dict()
    for gradients in (False, True):
        trace(model, ids, ["*"], gradients=gradients)
        assert torch.is_grad_enabled()
    assert hook_count(model) == before == 0
    assert model.config.to_dict() == settings
    assert not any(module.training for module in model.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_hooks_of_others_stay(model: LumiereForCausalLM, ids: Tensor) -> None:
    calls = []
    with model.model.norm.register_forward_hook(lambda *call: calls.append(call)):
        trace(model, ids, ["*"])
        assert hook_count(model) == 1
    assert len(calls) == 1


@every_kind
def test_nothing_stays_behind_after_an_error(model: Any, ids: Tensor) -> None:
    def fail(module: Any, inputs: Any, output: Any) -> None:
        raise RuntimeError("in the middle of the model")

    expected = trace(model, ids).logits
    with blocks_of(model)[1].register_forward_hook(fail):
        with pytest.raises(RuntimeError, match="in the middle of the model"):
            trace(model, ids, ["*"], gradients=True)
        assert hook_count(model) == 1
    assert torch.equal(trace(model, ids, ["*"]).logits, expected)
    assert hook_count(model) == 0
    assert torch.is_grad_enabled()


# Only what is asked for


@every_kind
def test_only_what_is_asked_for_is_kept(model: Any, ids: Tensor) -> None:
    names = ["blocks.0.residual", "blocks.1.attention.key"]
    traced = trace(model, ids, names, gradients=True)
    assert list(traced.tensors) == names
    assert list(traced.gradients) == names
    nothing = trace(model, ids)
    assert nothing.tensors == nothing.gradients == {}
    assert trace(model, ids, names).gradients == {}


@every_kind
@pytest.mark.parametrize("part", ["pattern", "heads", "query"])
def test_a_layer_that_is_not_asked_for_gets_no_hook(model: Any, ids: Tensor, part: str) -> None:
    """During the pass, which therefore uses fast attention at its usual cost."""
    counts = []

    def count(module: Any, inputs: Any) -> None:
        counts.append([hook_count(block) for block in blocks_of(model)])

    with model.base_model.register_forward_pre_hook(count):
        trace(model, ids, [f"blocks.1.attention.{part}"])
        trace(model, ids)
    (first, second), without = counts
    assert first == 0 < second
    assert without == [0, 0]


def test_a_tensor_that_was_not_asked_for_is_an_error(
    model: LumiereForCausalLM, ids: Tensor
) -> None:
    traced = trace(model, ids, ["embed"])
    assert traced["embed"] is traced.tensors["embed"]
    with pytest.raises(UserError, match=r"final_norm was not requested: .*names=\['final_norm'\]"):
        traced["final_norm"]
    with pytest.raises(UserError, match=r"no tensor called 'finalnorm' \(did you mean final_norm"):
        traced["finalnorm"]


# Values


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_tensor_equals_that_of_plain_torch(
    model: Any, ids: Tensor, dtype: torch.dtype
) -> None:
    model.to(dtype)
    traced = trace(model, ids, ["*"])
    for row, tokens in enumerate(ids):
        parts = plain_parts(model, tokens)
        for name in inspect_names(model):
            assert traced[name].dtype == dtype or name.endswith((".write", ".read", ".pattern"))
            assert_near(traced[name][row].to(dtype), parts[name], name)


@every_kind
def test_rows_of_a_padded_batch_equal_each_row_alone(
    model: Any, rows: list[list[int]], padded: dict[str, Tensor]
) -> None:
    names = inspect_names(model)
    both = trace(model, padded["input_ids"], ["*"], attention_mask=padded["attention_mask"])
    for row, tokens in enumerate(rows):
        alone = trace(model, tokens, ["*"])
        pads = 11 - len(tokens)
        for name, shape in names.items():
            own = both[name][row].movedim(shape.index("T") - 1, 0)[pads:]
            if "S" in shape:
                assert not own[..., :pads].any()
                own = own[..., pads:]
            expected = alone[name][0].movedim(shape.index("T") - 1, 0)
            assert_near(own, expected, f"{name} of row {row}")
        assert both.loss[row, : pads + 1].isnan().all()
        assert_near(both.loss[row, pads + 1 :], alone.loss[0, 1:])


@every_kind
def test_patterns_are_the_attentions_that_the_model_gives_itself(
    model: Any, padded: dict[str, Tensor]
) -> None:
    mask = padded["attention_mask"]
    traced = trace(model, padded["input_ids"], [PATTERNS], attention_mask=mask)
    model.set_attn_implementation("eager")
    arguments = read_inputs(model, padded["input_ids"], attention_mask=mask).arguments()
    attentions = model(**arguments, output_attentions=True).attentions
    for layer, weights in enumerate(attentions):
        pattern = traced[f"blocks.{layer}.attention.pattern"]
        real = mask.bool()
        own, expected = (tensor.transpose(1, 2)[real] for tensor in (pattern, weights))
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.sum(-1), torch.ones_like(own.sum(-1)))


def test_a_window_longer_than_the_context_is_traced_as_the_model_computes(
    padded: dict[str, Tensor],
) -> None:
    """The model clamps the window to the context, which no text exceeds."""
    model = new_model(small_config("lumenspark", window=40)).eval()
    ids, mask = padded["input_ids"], padded["attention_mask"]
    traced = trace(model, ids, [PATTERNS], attention_mask=mask)
    attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    for layer, weights in enumerate(attentions):
        pattern = traced[f"blocks.{layer}.attention.pattern"].transpose(1, 2)
        torch.testing.assert_close(pattern[mask.bool()], weights.transpose(1, 2)[mask.bool()])


@every_kind
def test_the_residual_stream_is_the_sum_of_what_was_added_to_it(model: Any, ids: Tensor) -> None:
    traced = trace(model, ids, ["*"])
    stream = traced["embed"]
    for block in ("blocks.0", "blocks.1"):
        stream = stream + traced[f"{block}.attention.out"]
        assert_near(traced[f"{block}.residual_mid"], stream, tolerance=1e-5)
        stream = stream + traced[f"{block}.mlp.out"]
        assert_near(traced[f"{block}.residual"], stream, tolerance=1e-5)


@every_kind
def test_heads_and_bias_sum_to_what_attention_adds(model: Any, kind: str, ids: Tensor) -> None:
    traced = trace(model, ids, ["*"])
    for layer, block in enumerate(blocks_of(model)):
        name = f"blocks.{layer}.attention"
        if kind == "gpt2":
            bias = block.attn.c_proj.bias
        elif kind in ("lumiere", "llama"):
            bias = affine(block.self_attn.o_proj)[1]
        else:
            bias = affine(block.attention.o_proj)[1] * block.attention_scale.scale
        assert_near(traced[f"{name}.heads"].sum(1) + bias, traced[f"{name}.out"], tolerance=1e-5)


@slot_kinds
def test_slots_are_written_in_full_and_read_in_part(model: Any, padded: dict[str, Tensor]) -> None:
    """Write weights of a token sum to 1; so do slots and near tokens of a query."""
    real = padded["attention_mask"].bool()
    traced = trace(model, padded["input_ids"], ["*"], attention_mask=padded["attention_mask"])
    for layer in range(2):
        write, read = (traced[f"blocks.{layer}.attention.slots.{n}"] for n in ("write", "read"))
        written = write.sum(-1).transpose(1, 2)
        torch.testing.assert_close(written[real], torch.ones_like(written[real]))
        assert not written[~real].any()
        amount = read.sum(-1)[1]  # of the row without pads: blocks of 2, the first two see no slot
        assert not amount[:, :4].any()
        assert (amount[:, 4:] > 0).all()
        pattern = traced[f"blocks.{layer}.attention.pattern"][1]
        far = torch.stack([pattern[:, t, : (t // 2 - 1) * 2].sum(-1) for t in range(4, 11)], dim=1)
        torch.testing.assert_close(amount[:, 4:], far)


@low_rank_kinds
def test_low_rank_patterns_times_values_are_what_the_heads_take(model: Any, ids: Tensor) -> None:
    traced = trace(model, ids, ["*"])
    for layer in range(2):
        pattern, value, mixed = (
            traced[f"blocks.{layer}.attention.{name}"] for name in ("pattern", "value", "mixed")
        )
        assert_near(mixed, pattern @ value, tolerance=1e-5)


@every_kind
def test_losses_are_those_of_each_token(
    model: Any, rows: list[list[int]], padded: dict[str, Tensor]
) -> None:
    traced = trace(model, padded["input_ids"], attention_mask=padded["attention_mask"])
    expected = torch.full((2, 11), torch.nan)
    for row, tokens in enumerate(rows):
        pads = 11 - len(tokens)
        chances = traced.logits[row].double().softmax(-1)
        for position in range(1, len(tokens)):
            chance = chances[pads + position - 1, tokens[position]]
            expected[row, pads + position] = -chance.log()
    torch.testing.assert_close(traced.loss, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert traced.mean_loss == pytest.approx(float(expected.nanmean()), rel=1e-5)


def test_the_loss_is_in_single_precision_whatever_the_model_is(
    model: LumiereForCausalLM, ids: Tensor
) -> None:
    traced = trace(model.bfloat16(), ids)
    assert traced.loss.dtype == torch.float32
    expected = [plain_loss(*row) for row in zip(traced.logits.float(), ids, strict=True)]
    torch.testing.assert_close(traced.loss[:, 1:].mean(1), torch.stack(expected))


def test_a_single_token_is_not_predicted(model: LumiereForCausalLM) -> None:
    traced = trace(model, [5], ["*"], gradients=True)
    assert traced.loss.shape == (1, 1)
    assert traced.loss.isnan().all()
    assert traced.mean_loss != traced.mean_loss  # NaN


def test_a_glob_names_no_single_tensor(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="matches 2 tensors: give the full name of one"):
        trace(model, ids, ["blocks.*.residual"])["blocks.*.residual"]


def test_gradients_need_a_pass_that_keeps_them(model: Any, ids: Tensor) -> None:
    with torch.inference_mode(), pytest.raises(UserError, match=r"torch\.inference_mode"):
        trace(model, ids, ["embed"], gradients=True)
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(UserError, match="gradient checkpointing runs the model twice"):
        trace(model, ids, ["embed"], gradients=True)


def test_heads_are_exact_beside_large_biases(ids: Tensor) -> None:
    model = make_model("gpt2").to(torch.bfloat16)
    exit_ = model.transformer.h[0].attn.c_proj
    with torch.no_grad():
        exit_.bias.fill_(10.0)
    names = ["blocks.0.attention.mixed", "blocks.0.attention.heads"]
    found = trace(model, ids, names)
    weight = exit_.weight.unflatten(0, (4, 8))  # (H, D, E)
    expected = found[names[0]].float() @ weight.float()
    error = (found[names[1]].float() - expected).norm() / expected.norm()
    assert float(error) < 0.01  # bfloat16 rounds to 0.4%


@pytest.mark.parametrize("kind", ["content"])
def test_how_tokens_are_written_is_cheap_to_see(model: Any, ids: Tensor) -> None:
    """Requested alone, it needs no token-to-token map, and equals the result with one."""
    name = "blocks.0.attention.slots.write"
    alone = trace(model, ids, [name])[name]
    assert torch.equal(alone, trace(model, ids, [name, "blocks.0.attention.pattern"])[name])
