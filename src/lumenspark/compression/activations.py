"""What a text shows about linear layers: what they read, and how much their output matters."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lumenspark.models.module_ranks import shape_of

LOGITS_PER_BATCH = 2**23  # of one pass: 32 MiB of float32, and a few times as much around them


@dataclass(frozen=True)
class Activations:
    """One layer on a text.

    Attributes:
        gram: (in, in) float64, the mean of x xᵀ over its inputs x, one for each token.
        sensitivity: the mean square of the loss's derivative (nats) by one output at one token.
    """

    gram: Tensor
    sensitivity: float


def run_text(
    model: Any, windows: Tensor, layers: Mapping[str, nn.Module]
) -> dict[str, Activations]:
    """Run a text through a causal language model, forward and backward, and watch ``layers``.

    ``windows`` (N, T + 1) are token ids: T that are read, and T that are to be predicted. Takes
    in² numbers of memory for each layer; leaves the model as it was. Layers that never ran are
    missing from what is returned.
    """
    sums = {name: _Sums(shape_of(layer)[0]) for name, layer in layers.items()}
    outputs: list[tuple[_Sums, Tensor]] = []  # of the pass in hand

    def watch(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sums[name].add_inputs(inputs[0].detach())
        if not output.requires_grad:  # a frozen model
            output.requires_grad_()
        outputs.append((sums[name], output))

    hooks = [layer.register_forward_hook(partial(watch, name)) for name, layer in layers.items()]
    training = model.training
    model.eval()
    try:
        for batch in _batches(model, windows):
            loss = _summed_loss(model, batch)
            gradients = torch.autograd.grad(loss, [o for _, o in outputs], allow_unused=True)
            for (layer_sums, _), gradient in zip(outputs, gradients, strict=True):
                if gradient is not None:
                    layer_sums.add_gradient(gradient)
            outputs.clear()
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {name: each.means() for name, each in sums.items() if each.tokens}


class _Sums:
    """Over all tokens, for one layer."""

    def __init__(self, features: int) -> None:
        self.tokens = 0
        self.gram = torch.zeros(features, features, dtype=torch.float64)
        self.squares = 0.0
        self.derivatives = 0

    def add_inputs(self, inputs: Tensor) -> None:
        rows = inputs.flatten(0, -2).float()
        self.tokens += len(rows)
        self.gram += (rows.T @ rows).cpu()  # there is no float64 on mps

    def add_gradient(self, gradient: Tensor) -> None:
        self.squares += float(gradient.float().square().sum())
        self.derivatives += gradient.numel()

    def means(self) -> Activations:
        return Activations(self.gram / self.tokens, self.squares / max(1, self.derivatives))


def _batches(model: Any, windows: Tensor) -> tuple[Tensor, ...]:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = max(1, LOGITS_PER_BATCH // (windows.shape[1] * vocabulary))
    return windows.to(model.device).split(rows)


@torch.enable_grad()
def _summed_loss(model: Any, windows: Tensor) -> Tensor:
    """The sum over all predictions, so that a token's derivatives do not depend on their number."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    targets = windows[:, 1:].flatten()
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
