"""Activation statistics of linear layers on a text: input Gram matrices, output sensitivities."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lumenspark.evaluation.scoring import rows_per_batch
from lumenspark.models.module_ranks import shape_of


@dataclass(frozen=True)
class Activations:
    """Statistics of one layer on a text.

    Attributes:
        gram: (in, in) float64, the mean of x xᵀ over the inputs x of all tokens.
        sensitivity: mean square of the loss gradient (nats) with respect to one output at one
            token.
    """

    gram: Tensor
    sensitivity: float


def layer_activations(
    model: Any, windows: Tensor, layers: Mapping[str, nn.Module]
) -> dict[str, Activations]:
    """Statistics of ``layers`` from a forward and backward pass of a causal language model.

    ``windows`` (N, T + 1) are token ids: inputs are ``[:, :-1]``, targets ``[:, 1:]``. Takes in²
    float64 numbers of memory per layer and leaves the model unchanged. Layers that the forward
    pass does not use are missing from the result.
    """
    sums = {name: _ActivationSums(shape_of(layer)[0]) for name, layer in layers.items()}
    outputs: list[tuple[_ActivationSums, Tensor]] = []  # of the current batch

    def hook(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sums[name].add_inputs(inputs[0].detach())
        if not output.requires_grad:  # frozen weights
            output.requires_grad_()
        outputs.append((sums[name], output))

    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers.items()]
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
        for handle in handles:
            handle.remove()
    return {name: each.means() for name, each in sums.items() if each.tokens}


class _ActivationSums:
    """Running sums over all tokens, for one layer."""

    def __init__(self, features: int) -> None:
        self.tokens = 0
        self.gram = torch.zeros(features, features, dtype=torch.float64)
        self.squares = 0.0
        self.derivatives = 0

    def add_inputs(self, inputs: Tensor) -> None:
        rows = inputs.flatten(0, -2).float()
        self.tokens += len(rows)
        self.gram += (rows.T @ rows).cpu()  # mps lacks float64

    def add_gradient(self, gradient: Tensor) -> None:
        self.squares += float(gradient.float().square().sum())
        self.derivatives += gradient.numel()

    def means(self) -> Activations:
        return Activations(self.gram / self.tokens, self.squares / max(1, self.derivatives))


def _batches(model: Any, windows: Tensor) -> tuple[Tensor, ...]:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return windows.to(model.device).split(rows_per_batch(windows.shape[1], vocabulary))


@torch.enable_grad()
def _summed_loss(model: Any, windows: Tensor) -> Tensor:
    """Summed, not averaged: gradients at a token do not depend on the batch size."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    targets = windows[:, 1:].flatten()
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
