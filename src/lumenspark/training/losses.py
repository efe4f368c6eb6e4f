"""The training objective: cross-entropy against the text, and against teacher samples."""

from typing import Any, Protocol

import torch
from torch import Tensor

from lumenspark.models.decoder import LanguageModelMixin
from lumenspark.models.fused_cross_entropy import cross_entropy, soft_targets


class Loss(Protocol):
    """A function from windows (B, T + 1) and optional teacher samples (B, T, S) to nats."""

    def __call__(self, windows: Tensor, teacher_samples: Tensor | None = None, /) -> Tensor: ...


def make_loss(model: Any, device: str, bf16: bool, teacher_weight: float = 0.0) -> Loss:
    """The training loss: the mean loss of ``model`` over windows of token ids.

    ``teacher_weight``: fraction of the loss on the teacher samples, if there are any. The loss is
    computed inside the model's ``forward``, so that ``model`` may be wrapped (DDP).
    """
    ours = isinstance(getattr(model, "module", model), LanguageModelMixin)

    def loss(windows: Tensor, teacher_samples: Tensor | None = None) -> Tensor:
        inputs, targets = windows[:, :-1], windows[:, 1:]
        with autocast(device, bf16):
            if ours:
                computed: Tensor = model(
                    input_ids=inputs,
                    targets=targets,
                    teacher_samples=teacher_samples,
                    teacher_weight=teacher_weight,
                    use_cache=False,
                    skip_logits=True,
                ).loss
                return computed
            logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        return cross_entropy(logits.float(), *soft_targets(targets)).mean()

    return loss


def autocast(device: str, bf16: bool) -> torch.autocast:
    """Matrix products in bfloat16, if ``bf16``; sums, norms and weights stay in float32."""
    return torch.autocast(device, torch.bfloat16, enabled=bf16)
