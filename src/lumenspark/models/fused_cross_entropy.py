"""Cross-entropy of a language model, with hard or soft targets, and its fused linear form.

Shapes: N predictions, E hidden size, V vocabulary, K target tokens for each prediction. A soft
target is a distribution over K tokens with weights that sum to 1; next tokens alone have K = 1.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # the label of a position without a target, as in torch and transformers


def cross_entropy(logits: Tensor, target_tokens: Tensor, target_weights: Tensor) -> Tensor:
    """The loss of each prediction, (N,) in nats. The definition.

    Args:
        logits: (N, V).
        target_tokens: (N, K) ids.
        target_weights: (K,) weights that sum to 1.
    """
    target_logits = logits.gather(-1, target_tokens) * target_weights.to(logits.dtype)
    return logits.logsumexp(-1) - target_logits.sum(-1)


def fused_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, target_tokens: Tensor, target_weights: Tensor
) -> Tensor:
    """:func:`cross_entropy` of ``hidden @ weight.T``: hidden (N, E), weight (V, E) to (N,).

    Under autocast the products run in its dtype, and the sums in the dtype of ``target_weights``.
    In float16, whose range the sum of exponentials can exceed, the definition is used.
    """
    device = hidden.device.type
    if not torch.amp.is_autocast_available(device):  # as on the meta device
        return _fused(hidden, weight, target_tokens, target_weights)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        return _fused(hidden, weight, target_tokens, target_weights)


class FusedLinearCrossEntropy(torch.autograd.Function):
    """The output layer and the cross-entropy as one node of the graph.

    The exponentials of the logits, which the loss sums, are also its gradient, up to one factor for
    each row. They are kept in the dtype of ``hidden``, and the factor is multiplied into the narrow
    side of the backward products, so that each tensor as wide as the vocabulary is written once
    (measured in docs/log.md).
    """

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(
        hidden: Tensor, weight: Tensor, target_tokens: Tensor, target_weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The losses (N,), and what the backward pass needs: ``grad_logits`` and ``sum_exp``."""
        logits, exact = hidden @ weight.mT, target_weights.dtype
        max_logits = logits.amax(-1, keepdim=True).to(exact)
        exp_logits = (logits.to(exact) - max_logits).exp()
        sum_exp = exp_logits.sum(-1, keepdim=True)
        target_logits = logits.gather(-1, target_tokens).to(exact) @ target_weights
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        # index_put, not scatter_add, which copies the whole matrix twice when compiled.
        grad_logits = exp_logits.to(logits.dtype).index_put(
            (rows, target_tokens), (-sum_exp * target_weights).to(logits.dtype), accumulate=True
        )
        losses = sum_exp.log().squeeze(-1) + max_logits.squeeze(-1) - target_logits
        return losses, grad_logits, sum_exp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        hidden, weight, _, _ = inputs
        _, grad_logits, sum_exp = output
        ctx.mark_non_differentiable(grad_logits, sum_exp)
        ctx.save_for_backward(hidden, weight, grad_logits, sum_exp)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, grad_logits, sum_exp = ctx.saved_tensors
        scale = grad_losses[:, None] / sum_exp
        grad_hidden = (grad_logits @ weight) * scale
        grad_weight = grad_logits.mT @ (hidden * scale).to(hidden.dtype)
        return grad_hidden.to(hidden.dtype), grad_weight, None, None


def _fused(hidden: Tensor, weight: Tensor, *targets: Tensor) -> Tensor:
    if hidden.dtype == torch.float16:
        return cross_entropy((hidden @ weight.mT).float(), *targets)
    losses: Tensor = FusedLinearCrossEntropy.apply(hidden, weight, *targets)[0]
    return losses


def soft_targets(
    targets: Tensor, teacher_samples: Tensor | None = None, teacher_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Target tokens (B·T, K) and their weights (K,), in float32.

    The next tokens in ``targets`` (B, T); with ``teacher_samples`` (B, T, S) these, which share
    ``teacher_weight`` of the loss equally. Token 0 replaces ``IGNORED`` targets.
    """
    tokens, weights = targets.where(targets != IGNORED, 0).reshape(-1, 1), [1.0]
    if teacher_samples is not None:
        samples = teacher_samples.shape[-1]
        tokens = torch.cat([tokens, teacher_samples.flatten(0, 1)], dim=-1)
        weights = [1 - teacher_weight] + samples * [teacher_weight / samples]
    return tokens, torch.tensor(weights, device=targets.device)


def mean_loss(losses: Tensor, targets: Tensor, num_items: int | Tensor | None = None) -> Tensor:
    """The mean of the losses (N,) whose target, in ``targets`` (B, T), is not ``IGNORED``.

    With ``num_items`` their sum over it: the number of targets in a batch that is processed in
    parts.
    """
    counted = (targets.flatten() != IGNORED).to(losses.device)
    count = counted.sum() if num_items is None else num_items
    if isinstance(count, Tensor):
        count = count.to(losses.device)
    return losses.where(counted, 0.0).sum() / count


def shifted(labels: Tensor) -> Tensor:
    """Next-token targets (B, T) for ``labels`` (B, T), which are the input ids themselves."""
    return nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether ``layer`` computes ``x @ weight.T`` and nothing else: no bias, adapter or hook."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    hooked = any(hooks) or layer._backward_pre_hooks or hasattr(layer, "_hf_hook")
    return type(layer) is nn.Linear and layer.bias is None and not hooked
