"""The loss: the fast form against the plain one, and both against the text and its teachers."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.training.loss import OutputCrossEntropy, cross_entropy, make_loss

ROWS, WIDTH, VOCABULARY = 30, 16, 40


def tensors(samples: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, output weights, tokens and their shares, in float64."""
    torch.manual_seed(3)
    hidden = scale * torch.randn(ROWS, WIDTH, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, (ROWS, samples))
    shares = torch.rand(samples, dtype=torch.float64)
    return hidden.requires_grad_(), weight.requires_grad_(), tokens, shares / shares.sum()


def model_of() -> LumiereForCausalLM:
    torch.manual_seed(0)
    config = LumiereConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        initializer_range=0.5,
        dropout=0.0,
    )
    return LumiereForCausalLM(config).train()


def gradients_of(model: LumiereForCausalLM, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_shares_of_tokens_are_means_of_cross_entropies() -> None:
    hidden, weight, tokens, shares = tensors(5)
    logits = hidden @ weight.T
    plain = sum(
        share * functional.cross_entropy(logits, column)
        for share, column in zip(shares, tokens.T, strict=True)
    )
    torch.testing.assert_close(cross_entropy(logits, tokens, shares), plain)


@pytest.mark.parametrize("samples", [1, 2, 13])  # of 40 tokens: some are drawn twice
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])  # logits up to a thousand
def test_the_fast_form_is_the_plain_one(samples: int, scale: float) -> None:
    hidden, weight, tokens, shares = tensors(samples, scale)
    plain = cross_entropy(hidden @ weight.T, tokens, shares)
    fast = OutputCrossEntropy.apply(hidden, weight, tokens, shares)
    torch.testing.assert_close(fast, plain)
    for ours, theirs in zip(
        torch.autograd.grad(3 * fast, (hidden, weight)),
        torch.autograd.grad(3 * plain, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_its_gradients_are_those_of_differences() -> None:
    hidden, weight, tokens, shares = tensors(3)
    assert torch.autograd.gradcheck(OutputCrossEntropy.apply, (hidden, weight, tokens, shares))


def test_in_bfloat16_it_is_as_near_as_the_plain_form() -> None:
    hidden, weight, tokens, shares = tensors(4, scale=3.0)
    exact = torch.autograd.grad(cross_entropy(hidden @ weight.T, tokens, shares), (hidden, weight))
    short = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    logits = (short[0] @ short[1].T).float()
    plain = torch.autograd.grad(cross_entropy(logits, tokens, shares.float()), short)
    fast = torch.autograd.grad(OutputCrossEntropy.apply(*short, tokens, shares.float()), short)
    for ours, theirs, right in zip(fast, plain, exact, strict=True):
        assert (ours - right).norm() < 1.5 * (theirs - right).norm()


@pytest.mark.parametrize("answers", [None, torch.randint(VOCABULARY, (6, 8, 5))])
def test_what_is_trained_is_the_models_own_loss(answers: Tensor | None) -> None:
    model = model_of()
    windows = torch.randint(VOCABULARY, (6, 9))
    logits = model(input_ids=windows[:, :-1]).logits.flatten(0, 1)
    plain = functional.cross_entropy(logits, windows[:, 1:].flatten())
    if answers is not None:
        plain = 0.3 * plain
        for column in answers.flatten(0, 1).T:
            plain = plain + 0.7 / 5 * functional.cross_entropy(logits, column)
    loss = make_loss(model, "cpu", bf16=False, teachers_weight=0.7)(windows, answers)
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(gradients_of(model, loss), gradients_of(model, plain), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_output_layer_with_a_bias_has_its_gradient() -> None:
    model = model_of()
    model.lm_head.bias = torch.nn.Parameter(torch.randn(VOCABULARY))
    windows = torch.randint(VOCABULARY, (6, 9))
    logits = model(input_ids=windows[:, :-1]).logits.flatten(0, 1)
    plain = functional.cross_entropy(logits, windows[:, 1:].flatten())
    loss = make_loss(model, "cpu", bf16=False)(windows)
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(gradients_of(model, loss), gradients_of(model, plain), strict=True):
        torch.testing.assert_close(ours, theirs)
