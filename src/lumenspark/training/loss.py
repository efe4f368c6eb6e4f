"""What is differentiated: cross-entropy with the text, and with what teachers have said."""

from typing import Any, Protocol

import torch
from torch import Tensor

from lumenspark.models.decoder import LanguageModelMixin


class Loss(Protocol):
    """Windows (B, T + 1) and perhaps teachers' samples (B, T, S) to a mean loss in nats."""

    def __call__(self, windows: Tensor, answers: Tensor | None = None, /) -> Tensor: ...


def make_loss(model: Any, device: str, bf16: bool, teachers_weight: float = 0.0) -> Loss:
    """The function that is differentiated: windows (B, T + 1) of ids to their mean loss in nats.

    Its second argument are the teachers' samples (B, T, S), or None where there are no teachers.
    """
    # Foreign models may do more to their hidden states than one product of matrices.
    one_product = isinstance(model, LanguageModelMixin) and model.lm_head.bias is None

    def loss(windows: Tensor, answers: Tensor | None = None) -> Tensor:
        inputs = windows[:, :-1]
        tokens, shares = tokens_and_shares(windows[:, 1:], answers, teachers_weight)
        if not one_product:
            with autocast(device, bf16):
                logits = model(input_ids=inputs, use_cache=False).logits
            return cross_entropy(logits.flatten(0, 1).float(), tokens, shares)
        with autocast(device, bf16):
            hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        weight = model.lm_head.weight
        if bf16:
            hidden, weight = hidden.bfloat16(), weight.bfloat16()
        return OutputCrossEntropy.apply(hidden, weight, tokens, shares)

    return loss


def tokens_and_shares(
    targets: Tensor, answers: Tensor | None, teachers_weight: float
) -> tuple[Tensor, Tensor]:
    """What is to be expected at each place, (B * T, K), and how much of the loss each of them is.

    The text's next token, from targets (B, T), and the teachers' samples, from answers (B, T, S),
    which share ``teachers_weight``. The shares (K,) are float32, and add up to 1.
    """
    tokens, shares = targets.reshape(-1, 1), [1.0]
    if answers is not None:
        samples = answers.shape[-1]
        tokens = torch.cat([tokens, answers.flatten(0, 1)], dim=-1)
        shares = [1 - teachers_weight] + samples * [teachers_weight / samples]
    return tokens, torch.tensor(shares, device=targets.device)


def autocast(device: str, bf16: bool) -> torch.autocast:
    """Products in bfloat16, where ``bf16``; sums, norms and weights stay in float32."""
    return torch.autocast(device, torch.bfloat16, enabled=bf16)


def cross_entropy(logits: Tensor, tokens: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (N, V) with tokens (N, K) that have shares (K,) of 1."""
    likely = logits.gather(-1, tokens) @ shares
    return (logits.logsumexp(-1) - likely).mean()


class OutputCrossEntropy(torch.autograd.Function):
    """:func:`cross_entropy` of ``hidden @ weight.T``: hidden (N, E), weight (V, E).

    The powers that the loss sums up are its gradient too, but for one factor a row. They are kept
    in the type of ``hidden``, and the factor is multiplied into the narrow side of the products of
    the backward pass: what is as wide as the vocabulary is written once (docs/log.md). Sums are
    taken in the type of ``shares``.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, shares: Tensor) -> Tensor:
        logits, exact = hidden @ weight.mT, shares.dtype
        highest = logits.amax(-1, keepdim=True).to(exact)
        powers = (logits.to(exact) - highest).exp()
        sums = powers.sum(-1, keepdim=True)
        likely = logits.gather(-1, tokens).to(exact) @ shares
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        # Not scatter_add: compiled, that copies the whole matrix twice.
        errors = powers.to(logits.dtype).index_put(
            (rows, tokens), (-sums * shares).to(logits.dtype), accumulate=True
        )
        ctx.save_for_backward(hidden, weight, errors, sums)
        return (sums.log().squeeze(-1) + highest.squeeze(-1) - likely).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, errors, sums = ctx.saved_tensors
        scale = gradient / (len(hidden) * sums)
        by_hidden = (errors @ weight) * scale
        by_weight = errors.mT @ (hidden * scale).to(hidden.dtype)
        return by_hidden.to(hidden.dtype), by_weight, None, None
