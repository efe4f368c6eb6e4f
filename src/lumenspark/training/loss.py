"""What is differentiated: cross-entropy with the text, and with what teachers have said."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Loss(Protocol):
    """Windows (B, T + 1) and perhaps teachers' samples (B, T, S) to a mean loss in nats."""

    def __call__(self, windows: Tensor, answers: Tensor | None = None, /) -> Tensor: ...


def make_loss(model: Any, device: str, bf16: bool, teachers_weight: float = 0.0) -> Loss:
    """The function that is differentiated: windows (B, T + 1) of ids to their mean loss in nats.

    Its second argument are the teachers' samples (B, T, S), or None where there are no teachers.
    """

    def loss(windows: Tensor, answers: Tensor | None = None) -> Tensor:
        with autocast(device, bf16):
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        # The softmax over the vocabulary is taken in float32.
        logits, targets = logits.flatten(0, 1).float(), windows[:, 1:].flatten()
        if answers is None:
            return functional.cross_entropy(logits, targets)
        return distillation_loss(logits, targets, answers.flatten(0, 1), teachers_weight)

    return loss


def autocast(device: str, bf16: bool) -> torch.autocast:
    """Products in bfloat16, where ``bf16``; sums, norms and weights stay in float32."""
    return torch.autocast(device, torch.bfloat16, enabled=bf16)


def distillation_loss(logits: Tensor, targets: Tensor, samples: Tensor, weight: float) -> Tensor:
    """Mean cross-entropy in nats: (1 - weight) with the text's, weight with the teachers' tokens.

    Args:
        logits: (N, V), float32.
        targets: (N,) the text's next tokens.
        samples: (N, S) the teachers' samples.
        weight: of the teachers, from 0 to 1.
    """
    chosen = logits.gather(-1, torch.cat([targets[:, None], samples], dim=-1))
    likely = (1 - weight) * chosen[:, 0] + weight * chosen[:, 1:].mean(-1)
    return (logits.logsumexp(-1) - likely).mean()
