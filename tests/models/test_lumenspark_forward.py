"""Lumenspark's forward pass: its size, its first weights, its values, and what each token sees.

What it shares with Lumiére is tested in ``test_lumiere_forward.py``, with both.
"""

from typing import Any

import pytest
import torch
from small_models import (
    ATTENTIONS,
    every_attention,
    fill_with_noise,
    new_model,
    plain_logits,
    small_config,
)
from torch import Tensor, nn

import lumenspark
from lumenspark.models import LumensparkBackbone, LumensparkConfig, LumensparkForCausalLM
from lumenspark.models.layers import LayerScale
from lumenspark.models.lowrank_linear import LowRankLinear

OTHER_MODELS: dict[str, dict[str, Any]] = {
    "one slot": {"k": 1},
    "more slots than tokens": {"k": 20},
    "blocks that do not divide the context": {"window": 5},
    "blocks of one token": {"window": 1, "projection": "position"},
    "dense layers": {"rank": None},
    "biases and an output layer of its own": {
        "attention_bias": True,
        "head_bias": True,
        "tie_word_embeddings": False,
    },
    "ranks of their own": {
        "module_ranks": {
            "model.layers.0.attention.q_proj": None,
            "model.layers.1.feed_forward.down_proj": 20,
        }
    },
}
MODELS = ATTENTIONS | OTHER_MODELS


@pytest.fixture
def family() -> str:
    return "lumenspark"


def noisy(**changes: Any) -> LumensparkForCausalLM:
    model = fill_with_noise(new_model(small_config("lumenspark", **changes)))
    return model.eval()


def test_lumenspark_model_is_the_name_of_the_language_model() -> None:
    assert lumenspark.LumensparkModel is lumenspark.LumensparkForCausalLM is LumensparkForCausalLM
    assert lumenspark.LumensparkBackbone is LumensparkBackbone


def parameter_count(config: LumensparkConfig) -> int:
    """Without ``module_ranks``."""
    width, rank = config.embed_dim, config.rank
    if rank is None:
        linear = 4 * width**2 + 2 * width * 4 * width
    else:
        linear = 4 * rank * 2 * width + 2 * rank * 5 * width
    written_by = config.head_dim if config.projection == "content" else config.seq_length
    slots = config.heads * written_by * (config.k or 0)
    biases = 4 * width if config.attention_bias else 0
    block = linear + biases + slots + 2 * 2 * width + 2 * width  # two norms, two scales
    output = 0 if config.tie_word_embeddings else config.vocab_size * width
    output += config.vocab_size if config.head_bias else 0
    embeddings = (config.vocab_size + config.seq_length) * width
    return embeddings + config.depth * block + 2 * width + output


@pytest.mark.parametrize(
    "changes",
    [{}, *(MODELS[name] for name in MODELS if name != "ranks of their own")],
)
def test_the_number_of_parameters(changes: dict[str, Any]) -> None:
    """Of the config's defaults (768 wide, 8 blocks) changed so, and of the small one."""
    config = LumensparkConfig(**changes)
    with torch.device("meta"):
        model = LumensparkForCausalLM(config)
    assert model.num_parameters() == parameter_count(config)
    small = small_config("lumenspark", **changes)
    assert new_model(small).num_parameters() == parameter_count(small)


def test_the_defaults_are_those_of_the_document() -> None:
    config = LumensparkConfig()
    assert (config.seq_length, config.vocab_size, config.embed_dim) == (768, 50257, 768)
    assert (config.depth, config.heads, config.k, config.rank) == (8, 12, 64, 256)
    assert config.dropout == pytest.approx(1 / 17)


@pytest.mark.parametrize("deviation", [0.02, 0.1])
def test_a_fresh_models_weights(deviation: float) -> None:
    """Each weight of a product of factors is drawn as widely as that of a dense layer."""
    torch.manual_seed(0)
    config = LumensparkConfig(
        vocab_size=300,
        seq_length=64,
        embed_dim=256,
        depth=2,
        heads=4,
        rank=64,
        attention_bias=True,
        initializer_range=deviation,
        layer_scale=0.25,
        module_ranks={"model.layers.0.attention.v_proj": None},
    )
    model = LumensparkForCausalLM(config)
    modules = list(model.modules())
    products = [module.to_dense() for module in modules if isinstance(module, LowRankLinear)]
    assert len(products) == 11
    dense = [model.model.layers[0].attention.v_proj, model.model.embed_positions]
    for layer in (*products, *dense, model.model.embed_tokens):
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
        assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=0.05 * deviation)
    for block in model.model.layers:
        assert float(block.attention.write.detach().std()) == pytest.approx(1, rel=0.05)
        assert torch.count_nonzero(block.attention.q_proj.U.bias) == 0
        assert torch.equal(block.attention_norm.weight, torch.ones(256))
    scales = [module for module in modules if isinstance(module, LayerScale)]
    assert len(scales) == 4
    assert all(torch.equal(module.scale, torch.full((256,), 0.25)) for module in scales)


def test_the_output_layer_is_the_embedding(model: LumensparkForCausalLM) -> None:
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_every_linear_layer_of_the_blocks_is_low_rank_as_configured() -> None:
    def ranks(**changes: Any) -> dict[str, int | None]:
        model = new_model(small_config("lumenspark", depth=1, **changes))
        factors = [module for module in model.modules() if isinstance(module, LowRankLinear)]
        inner = {id(factor) for layer in factors for factor in (layer.U, layer.V)}
        found = {id(layer): layer.rank for layer in factors}
        return {
            name.removeprefix("model.layers.0."): found.get(id(module))
            for name, module in model.model.named_modules(prefix="model")
            if isinstance(module, LowRankLinear | nn.Linear) and id(module) not in inner
        }

    layers = [f"attention.{name}_proj" for name in "qkvo"]
    layers += ["feed_forward.up_proj", "feed_forward.down_proj"]
    assert ranks() == dict.fromkeys(layers, 8)
    assert ranks(rank=None) == dict.fromkeys(layers, None)
    own = {"model.layers.0.attention.k_proj": None, "model.layers.0.feed_forward.up_proj": 20}
    expected = dict.fromkeys(layers, 8) | {"attention.k_proj": None, "feed_forward.up_proj": 20}
    assert ranks(module_ranks=own) == expected


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("length", [1, 4, 5, 11, 16])
def test_logits_and_gradients_equal_those_of_plain_torch(
    model: LumensparkForCausalLM, length: int
) -> None:
    ids = torch.randint(3, 300, (2, length), generator=torch.Generator().manual_seed(length))
    logits = model(ids).logits
    expected = torch.stack([plain_logits(model, row) for row in ids])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    gradients, wanted = (
        torch.autograd.grad(
            output, list(model.parameters()), direction, allow_unused=True, materialize_grads=True
        )
        for output in (logits, expected)
    )
    for gradient, want in zip(gradients, wanted, strict=True):
        tolerance = 1e-4 + 1e-3 * float(want.abs().max())
        torch.testing.assert_close(gradient, want, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("implementation", ["matmul", "sdpa", "eager"])
def test_without_slots_attention_is_dense_by_every_implementation(
    ids: Tensor, implementation: str
) -> None:
    model = noisy(k=None)
    model.set_attn_implementation(implementation)
    expected = torch.stack([plain_logits(model, row) for row in ids])
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


def with_weights_of(model: LumensparkForCausalLM, **changes: Any) -> LumensparkForCausalLM:
    other = noisy(**changes)
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def test_two_blocks_are_read_as_dense_attention_reads_them(ids: Tensor) -> None:
    dense = noisy(k=None)
    expected = dense(ids).logits
    for window in (6, 11):
        logits = with_weights_of(dense, window=window)(ids).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(with_weights_of(dense, window=5)(ids).logits, expected, atol=1e-2)


def test_with_a_slot_for_each_position_it_is_dense_attention(ids: Tensor) -> None:
    dense = noisy(k=None)
    model = with_weights_of(dense, k=16, projection="position", window=2)
    for block in model.model.layers:
        block.attention.write.data = 1000 * torch.eye(16).expand(4, 16, 16)
    torch.testing.assert_close(model(ids).logits, dense(ids).logits, rtol=1e-4, atol=1e-4)


@every_attention
def test_no_logit_depends_on_a_later_token(
    model: LumensparkForCausalLM, changes: dict[str, Any], ids: Tensor
) -> None:
    """On every earlier one it does, but where neither slots nor blocks reach back to it."""
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings).logits
    for t in range(ids.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, t].sum(), embeddings, retain_graph=True)
        assert torch.count_nonzero(gradient[:, t + 1 :]) == 0
        # Without slots a layer sees one block of two tokens back: two layers see two.
        first = max(0, (t // 2 - 2) * 2) if changes.get("k") == 0 else 0
        assert torch.count_nonzero(gradient[:, :first]) == 0
        assert (gradient[:, first : t + 1].abs().sum(-1) > 0).all()


@every_attention
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_logit_of_a_real_token(
    model: LumensparkForCausalLM, ids: Tensor, side: str
) -> None:
    """The third row is nothing but padding: its logits mean nothing, but they are numbers."""
    pads = torch.tensor([[0] * 4 + [1] * 7, [1] * 11, [0] * 11])
    mask = pads if side == "left" else pads.flip(1)
    padded = ids.where(mask.bool(), 2)
    for use_cache in (True, False):
        output = model(padded, attention_mask=mask, use_cache=use_cache, output_attentions=True)
        logits = output.logits[0][mask[0].bool()]
        alone = model(padded[:1, mask[0].bool()]).logits[0]
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
        whole = model(ids[1:2]).logits[0]
        torch.testing.assert_close(output.logits[1], whole, rtol=1e-4, atol=1e-4)
        assert output.logits.isfinite().all()
        assert all(weights.isfinite().all() for weights in output.attentions)


@every_attention
def test_more_pads_than_the_context_is_long(model: LumensparkForCausalLM, ids: Tensor) -> None:
    padded = torch.cat([torch.full((3, 20), 2), ids], dim=1)
    mask = torch.cat([torch.zeros(3, 20).long(), torch.ones_like(ids)], dim=1)
    logits = model(padded, attention_mask=mask).logits[:, 20:]
    torch.testing.assert_close(logits, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [13, 14, 15])
def test_a_context_that_is_no_multiple_of_the_block(context: int) -> None:
    """Without a cache and with one, to the last token."""
    model = noisy(seq_length=context, window=4, projection="position")
    ids = torch.randint(3, 300, (1, context), generator=torch.Generator().manual_seed(0))
    expected = plain_logits(model, ids[0])
    for use_cache in (False, True):
        logits = model(ids, use_cache=use_cache).logits[0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@every_attention
def test_padding_leaves_gradients_finite(model: LumensparkForCausalLM, ids: Tensor) -> None:
    mask = torch.tensor([[0] * 4 + [1] * 7, [1] * 11, [0] * 11])
    model(ids, attention_mask=mask).logits.square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_a_mask_of_another_shape_is_an_error(model: LumensparkForCausalLM, ids: Tensor) -> None:
    mask = torch.ones(3, 1, 11, 11, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask of shape \(batch, tokens\), not of 4 dimensions"):
        model(ids, attention_mask=mask)


@every_attention
def test_the_weights_given_are_those_that_were_used(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    """Rebuilds each attention layer's output from its weights, with padding on the left."""
    outputs = []
    for block in model.model.layers:
        block.attention.register_forward_hook(
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
        assert torch.equal(weights.tril(), weights)


@every_attention
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("use_cache", [False, True])
def test_asking_for_weights_and_states_changes_no_bit_of_the_logits(
    model: LumensparkForCausalLM, ids: Tensor, padded: bool, use_cache: bool
) -> None:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    arguments = {"use_cache": use_cache} | ({"attention_mask": mask} if padded else {})
    plain = model(ids, **arguments)
    asked = model(ids, **arguments, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is None
    assert plain.hidden_states is None
    assert torch.equal(plain.logits, asked.logits)
    assert [weights.shape for weights in asked.attentions] == [(3, 4, 11, 11)] * 2
    assert [states.shape for states in asked.hidden_states] == [(3, 11, 32)] * 3


def test_the_hidden_states_are_the_embeddings_and_what_each_block_makes_of_them(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    states = model(ids, use_cache=False, output_hidden_states=True).hidden_states
    weights = dict(model.named_parameters())
    positions = weights["model.embed_positions.weight"][:11]
    assert torch.equal(states[0], weights["model.embed_tokens.weight"][ids] + positions)
    first, second = model.model.layers
    assert torch.equal(states[1], first(states[0])[0])
    assert torch.equal(states[2], model.model.norm(second(states[1])[0]))
    assert torch.equal(model.lm_head(states[2]), model(ids, use_cache=False).logits)


def test_the_configuration_can_ask_for_weights_and_states(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    """Transformers allows this setting with ``eager`` only."""
    expected = model(ids)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    model.config.output_hidden_states = True
    output = model(ids)
    assert torch.equal(output.logits, expected.logits)
    assert len(output.attentions) == 2
    assert len(output.hidden_states) == 3
    assert model(ids, output_attentions=False).attentions is None


@every_attention
def test_bfloat16_stays_close_to_float32(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """In one go, and token by token from the cache."""
    expected = model(ids).logits.log_softmax(-1)
    model.to(torch.bfloat16)
    whole = model(ids).logits
    cache = model.model.new_cache()
    steps = [model(ids[:, t : t + 1], past_key_values=cache).logits for t in range(11)]
    for logits in (whole, torch.cat(steps, dim=1)):
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float().log_softmax(-1), expected, rtol=0.1, atol=0.5)
