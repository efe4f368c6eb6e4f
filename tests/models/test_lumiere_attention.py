"""Attention: every fast form against the plain definition, and the weights one can ask for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from lumenspark.models import LumiereForCausalLM
from lumenspark.models.attention import (
    attention_weights,
    causal_mask,
    matmul_attention_forward,
    naive_attention,
)

IMPLEMENTATIONS = ["matmul", "sdpa", "eager"]


@st.composite
def queries_keys_values(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, T, D), keys and values (B, H, S, D) with S >= T, with gradients."""
    batch, heads, queries, past, size = (
        draw(st.integers(low, high)) for low, high in ((1, 3), (1, 3), (1, 7), (0, 5), (1, 8))
    )
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def tensor(length: int) -> Tensor:
        return torch.randn(batch, heads, length, size, generator=noise).requires_grad_()

    return tensor(queries), tensor(queries + past), tensor(queries + past)


def masked(query: Tensor, key: Tensor, additive: bool) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    mask = causal_mask(queries, keys, keys - queries, query.device)[None, None]
    if not additive:
        return mask
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(query.dtype).min)


def matmul(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    layer = SimpleNamespace(training=False)
    mask = masked(query, key, additive=False)
    return matmul_attention_forward(layer, query, key, value, mask, scaling)[0]


def eager(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    layer = SimpleNamespace(training=False)
    mask = masked(query, key, additive=True)
    return matmul_attention_forward(layer, query, key, value, mask, scaling)[0]


def sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    layer = SimpleNamespace(training=False, is_causal=True)
    mask = masked(query, key, additive=False)
    return sdpa_attention_forward(layer, query, key, value, mask, scaling=scaling)[0]


@pytest.mark.parametrize("form", [matmul, eager, sdpa])
@settings(max_examples=25, deadline=None)
@given(tensors=queries_keys_values(), scaling=st.floats(0.05, 2.0))
def test_every_form_equals_the_definition_in_value_and_gradient(
    form: Callable[..., Tensor], tensors: tuple[Tensor, Tensor, Tensor], scaling: float
) -> None:
    expected = naive_attention(*tensors, scaling)
    output = form(*tensors, scaling).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad((output * direction).sum(), tensors)
    wanted = torch.autograd.grad((expected * direction).sum(), tensors)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(tensors=queries_keys_values())
def test_the_weights_are_those_of_the_output(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = tensors
    weights = attention_weights(query, key, masked(query, key, additive=False), 0.5)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        weights @ value, naive_attention(query, key, value, 0.5), rtol=1e-4, atol=1e-5
    )
    past = key.shape[2] - query.shape[2]
    assert torch.equal(weights.tril(past), weights)


def test_without_a_mask_attention_is_causal() -> None:
    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    expected = attention_weights(query, key, masked(query, key, additive=False), 0.5)
    assert torch.equal(attention_weights(query, key, None, 0.5), expected)


def test_without_a_mask_a_single_query_sees_every_key() -> None:
    query, key = torch.randn(2, 3, 1, 4), torch.randn(2, 3, 9, 4)
    weights = attention_weights(query, key, None, 0.5)
    torch.testing.assert_close(weights, (query @ key.mT * 0.5).softmax(-1))


def test_a_query_that_sees_nothing_gets_nothing() -> None:
    query, key = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[True, False, False], [False] * 3, [True] * 3])
    weights = attention_weights(query, key, mask, 0.5)
    assert torch.count_nonzero(weights[:, :, 1]) == 0
    weights.square().sum().backward()
    assert query.grad.isfinite().all()
    assert key.grad.isfinite().all()
    assert torch.count_nonzero(query.grad[:, :, 1]) == 0


def test_large_scores_do_not_overflow() -> None:
    query = torch.full((1, 1, 4, 8), 100.0)
    weights = attention_weights(query, query, None, 1.0)
    torch.testing.assert_close(weights, attention_weights(torch.zeros_like(query), query, None, 1))
    half = attention_weights(query.bfloat16(), query.bfloat16(), None, 1.0)
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_asking_for_the_weights_changes_no_bit_of_the_logits(
    model: LumiereForCausalLM, ids: Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    for arguments in ({}, {"attention_mask": mask}):
        plain = model(ids, **arguments)
        asked = model(ids, **arguments, output_attentions=True, output_hidden_states=True)
        assert plain.attentions is None
        assert plain.hidden_states is None
        assert torch.equal(plain.logits, asked.logits)
        assert len(asked.attentions) == 2
        assert len(asked.hidden_states) == 3
        assert all(weights.shape == (3, 4, 11, 11) for weights in asked.attentions)
        assert all(states.shape == (3, 11, 32) for states in asked.hidden_states)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_weights_given_are_those_that_were_used(
    model: LumiereForCausalLM, ids: Tensor, implementation: str
) -> None:
    """Rebuilds each attention layer's output from its weights, with padding on the left."""
    model.set_attn_implementation(implementation)
    outputs = []
    for block in model.model.layers:
        block.self_attn.register_forward_hook(
            lambda layer, inputs, output: outputs.append((layer, inputs[0], output[0]))
        )
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    real = mask.bool()
    for (layer, hidden, output), weights in zip(outputs, attentions, strict=True):
        value = layer.v_proj(hidden).unflatten(-1, (4, 8)).transpose(1, 2)
        rebuilt = layer.o_proj((weights @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(rebuilt[real], output[real], rtol=1e-4, atol=1e-5)
        sums = weights.sum(-1).transpose(1, 2)[real]
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)
        assert torch.count_nonzero(weights[0, :, 4:, :4]) == 0  # nothing attends to padding


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_weights_of_a_step_with_a_cache_are_rows_of_the_whole(
    model: LumiereForCausalLM, ids: Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    whole = model(ids, output_attentions=True).attentions
    start = model(ids[:, :6], use_cache=True)
    for past in (6, 7, 8):
        step = model(
            ids[:, past : past + 1], past_key_values=start.past_key_values, output_attentions=True
        )
        for weights, expected in zip(step.attentions, whole, strict=True):
            torch.testing.assert_close(
                weights, expected[:, :, past : past + 1, : past + 1], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_cache_of_fixed_size_hides_its_empty_places(
    model: LumiereForCausalLM, ids: Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    whole = model(ids, output_attentions=True)
    cache = StaticCache(config=model.config, max_cache_len=16)
    start = model(ids[:, :6], past_key_values=cache, output_attentions=True)
    rest = model(ids[:, 6:], past_key_values=cache, output_attentions=True)
    torch.testing.assert_close(start.logits, whole.logits[:, :6], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rest.logits, whole.logits[:, 6:], rtol=1e-4, atol=1e-4)
    for first, second, expected in zip(
        start.attentions, rest.attentions, whole.attentions, strict=True
    ):
        together = torch.cat([first, second], dim=2)
        torch.testing.assert_close(together[..., :11], expected, rtol=1e-4, atol=1e-5)
        assert torch.count_nonzero(together[..., 11:]) == 0


def test_the_configuration_can_ask_for_the_weights(
    model: LumiereForCausalLM, ids: Tensor, tmp_path: Path
) -> None:
    """Transformers allows this setting with ``eager`` only, and saves it."""
    model.set_attn_implementation("eager")
    expected = model(ids).logits
    model.config.output_attentions = True
    model.config.output_hidden_states = True
    output = model(ids)
    assert torch.equal(output.logits, expected)
    assert len(output.attentions) == 2
    assert len(output.hidden_states) == 3
    assert model(ids, output_attentions=False).attentions is None
    model.save_pretrained(tmp_path)
    loaded = LumiereForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert len(loaded(ids).attentions) == 2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_generation_gives_the_weights_of_every_step(
    model: LumiereForCausalLM, ids: Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    plain = model.generate(ids, max_new_tokens=8)
    output = model.generate(
        ids,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert torch.equal(output.sequences, plain)
    assert len(output.attentions) == len(output.hidden_states) == 8
    assert output.attentions[0][0].shape == (3, 4, 11, 11)
    assert output.attentions[1][0].shape == (3, 4, 1, 12)
    assert output.attentions[5][1].shape == (3, 4, 1, 16)
    assert output.attentions[6][1].shape == (3, 4, 8, 8)  # the context was full: 8 tokens anew
    assert output.attentions[7][1].shape == (3, 4, 1, 9)


def test_the_implementation_can_be_chosen_and_changed(
    model: LumiereForCausalLM, ids: Tensor, tmp_path: Path
) -> None:
    assert model.config._attn_implementation == "sdpa"
    assert model._supports_attention_backend
    model.save_pretrained(tmp_path)
    for implementation in IMPLEMENTATIONS:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
        assert loaded.config._attn_implementation == implementation
        assert loaded.model.config._attn_implementation == implementation
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="sdpa"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="no_such_attention")


def test_each_implementation_makes_a_mask_of_its_own_kind(model: LumiereForCausalLM) -> None:
    assert "matmul" in ALL_MASK_ATTENTION_FUNCTIONS
    padded = torch.tensor([[0, 1, 1]])
    masks = {}
    for implementation in IMPLEMENTATIONS:
        model.set_attn_implementation(implementation)
        model.model.layers[0].self_attn.register_forward_pre_hook(
            lambda layer, inputs: masks.update({layer.config._attn_implementation: inputs[1]})
        )
        model(torch.tensor([[2, 5, 6]]), attention_mask=padded)
    assert masks["matmul"].dtype == masks["sdpa"].dtype == torch.bool
    assert masks["eager"].dtype == torch.float32


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Flex attention as torch defines it: its compiled form does not run on every processor."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_flex_attention_gives_the_same_logits_and_weights(
    model: LumiereForCausalLM, ids: Tensor, padded: bool
) -> None:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0 if padded else 1
    real = mask.bool()
    expected = model(ids, attention_mask=mask, output_attentions=True)
    model.set_attn_implementation("flex_attention")
    output = model(ids, attention_mask=mask, output_attentions=True)
    assert torch.equal(output.logits, model(ids, attention_mask=mask).logits)
    torch.testing.assert_close(output.logits[real], expected.logits[real], rtol=1e-4, atol=1e-4)
    for weights, wanted in zip(output.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(
            weights.transpose(1, 2)[real], wanted.transpose(1, 2)[real], rtol=1e-4, atol=1e-5
        )


@pytest.mark.usefixtures("uncompiled")
def test_flex_attention_generates_the_same_text(model: LumiereForCausalLM, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=10)
    model.set_attn_implementation("flex_attention")
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=10), expected)


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention_runs_compiled(model: LumiereForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    model.set_attn_implementation("flex_attention")
    try:
        logits = model(ids).logits
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        pytest.skip(f"flex_attention cannot be compiled on this machine: {reason}")
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
