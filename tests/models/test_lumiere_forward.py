"""The forward pass: its size, its values, what each token sees, and the loss.

What Lumenspark does in the same way is tested with both.
"""

import pytest
import torch
from small_models import Config, Model, both_families, fill_with_noise, new_model, plain_logits
from torch.nn import functional

import lumenspark
from lumenspark.models import LumiereBackbone, LumiereConfig, LumiereForCausalLM

IMPLEMENTATIONS = ["matmul", "sdpa", "eager"]


def test_lumiere_1m_has_1053824_parameters_and_the_sizes_of_its_card() -> None:
    config = LumiereConfig()
    model = LumiereForCausalLM(config)
    assert sum(weight.numel() for weight in model.parameters()) == 1_053_824
    assert (config.num_hidden_layers, config.num_attention_heads, config.head_dim) == (4, 4, 32)
    assert (config.intermediate_size, config.gated_size) == (256, 168)
    assert model.model.layers[0].mlp.gate_proj.weight.shape == (168, 128)


def test_lumiere_model_is_the_name_of_the_language_model() -> None:
    assert lumenspark.LumiereModel is lumenspark.LumiereForCausalLM is LumiereForCausalLM
    assert lumenspark.LumiereBackbone is LumiereBackbone


def test_a_head_size_that_is_no_whole_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="hidden_size=30 must be a multiple of num_attention_h"):
        LumiereConfig(hidden_size=30, num_attention_heads=4)


def test_a_feed_forward_layer_without_units_is_an_error() -> None:
    assert LumiereConfig(intermediate_size=12).gated_size == 8
    with pytest.raises(ValueError, match="intermediate_size=11 must be at least 12"):
        LumiereConfig(intermediate_size=11)


def test_a_fresh_model_predicts_by_the_embeddings_alone(config: LumiereConfig) -> None:
    """What writes to the residual stream starts at zero, so each block passes its input on."""
    model = LumiereForCausalLM(config).eval()
    output = model(torch.tensor([[5, 6, 7]]), output_hidden_states=True)
    assert torch.equal(output.hidden_states[0], model.model.layers[1](output.hidden_states[0])[0])
    assert 0.015 < model.model.layers[0].self_attn.q_proj.weight.std() < 0.025
    assert 0.015 < model.model.embed_positions.weight.std() < 0.025


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_and_gradients_equal_those_of_plain_torch(
    model: LumiereForCausalLM, ids: torch.Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    logits = model(ids).logits
    expected = torch.stack([plain_logits(model, row) for row in ids])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

    direction = torch.randn(logits.shape)
    weights = list(model.parameters())
    gradients = torch.autograd.grad((logits * direction).sum(), weights)
    expected = torch.autograd.grad((expected * direction).sum(), weights)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_logit_depends_on_a_later_token(
    model: LumiereForCausalLM, ids: torch.Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings).logits
    for t in range(ids.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, t].sum(), embeddings, retain_graph=True)
        assert torch.count_nonzero(gradient[:, t + 1 :]) == 0
        assert (gradient[:, : t + 1].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_logit_of_a_real_token(
    model: LumiereForCausalLM, ids: torch.Tensor, implementation: str, side: str
) -> None:
    """The third row is nothing but padding: its logits mean nothing, but they are numbers."""
    model.set_attn_implementation(implementation)
    pads = torch.tensor([[0] * 4 + [1] * 7, [1] * 11, [0] * 11])
    mask = pads if side == "left" else pads.flip(1)
    padded = ids.where(mask.bool(), 2)
    output = model(padded, attention_mask=mask, output_attentions=True)
    real = padded[0][mask[0].bool()]
    torch.testing.assert_close(
        output.logits[0][mask[0].bool()], model(real[None]).logits[0], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(output.logits[1], model(ids[1:2]).logits[0], rtol=1e-4, atol=1e-4)
    assert output.logits.isfinite().all()
    assert all(weights.isfinite().all() for weights in output.attentions)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding_leaves_gradients_finite(
    model: LumiereForCausalLM, ids: torch.Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    mask = torch.tensor([[0] * 4 + [1] * 7, [1] * 11, [0] * 11])
    model(ids, attention_mask=mask).logits.square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_positions_can_be_given(model: LumiereForCausalLM, ids: torch.Tensor) -> None:
    """The second of two texts in one row, each with positions and a mask of its own."""
    row = ids[:1]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])
    text = torch.tensor([0] * 4 + [1] * 7)
    mask = (text[:, None] == text) & torch.ones(11, 11, dtype=torch.bool).tril()
    logits = model(row, position_ids=positions, attention_mask=mask[None, None]).logits
    torch.testing.assert_close(logits[:, 4:], model(row[:, 4:]).logits, rtol=1e-4, atol=1e-4)


@both_families
def test_embeddings_in_the_place_of_ids(model: Model, ids: torch.Tensor) -> None:
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(input_ids=ids, inputs_embeds=embeddings)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


@both_families
def test_the_loss_is_the_mean_cross_entropy_of_the_next_tokens(
    model: Model, ids: torch.Tensor
) -> None:
    labels = ids.clone()
    labels[0, :6] = -100
    labels[2] = -100
    output = model(ids, labels=labels)
    log_p = torch.log_softmax(output.logits.double(), dim=-1)
    nats = [
        -log_p[row, t - 1, ids[row, t]]
        for row in range(3)
        for t in range(1, 11)
        if labels[row, t] != -100
    ]
    assert len(nats) == 5 + 10
    torch.testing.assert_close(output.loss.double(), torch.stack(nats).mean(), rtol=1e-5, atol=0)


@both_families
def test_logits_to_keep_computes_the_last_ones(model: Model, ids: torch.Tensor) -> None:
    logits = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, logits[:, -3:])
    chosen = torch.tensor([0, 4, 10])
    torch.testing.assert_close(model(ids, logits_to_keep=chosen).logits, logits[:, chosen])


@both_families
def test_a_tuple_where_no_output_object_is_wanted(model: Model, ids: torch.Tensor) -> None:
    loss, logits, *_ = model(ids, labels=ids, return_dict=False)
    assert torch.equal(logits, model(ids).logits)
    assert loss.ndim == 0


@both_families
def test_the_backbone_gives_what_the_output_layer_reads(model: Model, ids: torch.Tensor) -> None:
    backbone = type(model.model)(model.config).eval()
    backbone.load_state_dict(model.model.state_dict())
    hidden = backbone(ids).last_hidden_state
    assert torch.equal(hidden @ backbone.embed_tokens.weight.T, model(ids).logits)


@both_families
def test_a_text_longer_than_the_context_is_an_error(model: Model) -> None:
    ids = torch.full((1, 17), 5)
    sentence = (
        "17 tokens are longer than the context of 16: cut the text into windows, or use gener"
    )
    with pytest.raises(ValueError, match=sentence):
        model(ids)
    with pytest.raises(ValueError, match=sentence):
        model.train()(ids, labels=ids)
    with pytest.raises(ValueError, match=sentence):
        model(ids, attention_mask=torch.ones_like(ids))
    with pytest.raises(ValueError, match=sentence):
        model(inputs_embeds=torch.zeros(1, 17, 32))
    with pytest.raises(ValueError, match=sentence):
        model(ids, position_ids=torch.arange(17)[None])


@both_families
def test_padding_does_not_count_against_the_context(model: Model) -> None:
    ids = torch.randint(3, 300, (1, 16))
    padded = torch.cat([torch.full((1, 9), 2), ids], dim=1)
    mask = torch.tensor([[0] * 9 + [1] * 16])
    logits = model(padded, attention_mask=mask).logits
    torch.testing.assert_close(logits[:, 9:], model(ids).logits, rtol=1e-4, atol=1e-4)


@both_families
def test_dropout_is_drawn_in_training_only(model: Model, ids: torch.Tensor) -> None:
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@both_families
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(
    config: Config, ids: torch.Tensor, reentrant: bool
) -> None:
    config.dropout = 0.0
    model = fill_with_noise(new_model(config)).train()

    def loss_and_gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = model(ids, labels=ids).loss
        return loss, list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    if reentrant:  # its backward pass works through .backward() only
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        expected = [weight.grad.clone() for weight in model.parameters()]
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.enable_input_require_grads()
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients = [weight.grad for weight in model.parameters()]
    else:
        loss, expected = loss_and_gradients()
        model.gradient_checkpointing_enable()
        again, gradients = loss_and_gradients()
        assert torch.equal(loss, again)
    assert all(block.gradient_checkpointing for block in model.model.layers)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


@both_families
def test_gradient_checkpointing_draws_the_same_dropout_twice(
    config: Config, ids: torch.Tensor
) -> None:
    config.dropout = 0.5
    model = fill_with_noise(new_model(config)).train()

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(7)
        loss = model(ids, labels=ids).loss
        return list(torch.autograd.grad(loss, list(model.parameters())))

    expected = gradients()
    model.gradient_checkpointing_enable()
    for gradient, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


@both_families
def test_the_loss_falls_when_trained(config: Config, ids: torch.Tensor) -> None:
    """From the zeros of a fresh model, every weight gets to move within two steps."""
    torch.manual_seed(0)
    model = new_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(8):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@both_families
def test_bfloat16_stays_close_to_float32(model: Model, ids: torch.Tensor) -> None:
    expected = functional.log_softmax(model(ids).logits, dim=-1)
    logits = model.to(torch.bfloat16)(ids).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(
        functional.log_softmax(logits.float(), dim=-1), expected, rtol=0.1, atol=0.5
    )
