"""Optimizers, and their state as named tensors."""

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from lumenspark.errors import LONGEST_QUOTE, shortened
from lumenspark.recipe import OptimOptions
from lumenspark.training.muon import Muon

STATE_OF_MUON = ("momentum_buffer",)
STATE_OF_ADAMW = ("step", "exp_avg", "exp_avg_sq")


def build_optimizers(model: nn.Module, options: OptimOptions) -> list[Optimizer]:
    """AdamW on everything; or Muon on the blocks' matrices and AdamW on the rest.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) orthogonalises each matrix's
    momentum, which makes sense for a map between hidden states, not for a table of embeddings.
    Only the blocks' matrices have weight decay: it would pull embeddings of rare tokens to zero,
    and the gains of the norms away from one.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside_a_block = ".layers." in name and parameter.ndim == 2
        (hidden if inside_a_block else rest).append(parameter)
    betas = (options.beta1, options.beta2)
    if options.name == "adamw":
        groups = [
            {"params": hidden, "weight_decay": options.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        return [AdamW(groups, lr=options.adamw_lr, betas=betas, fused=_fused(rest))]
    muon = Muon(
        hidden,
        lr=options.muon_lr,
        momentum=options.muon_momentum,
        weight_decay=options.weight_decay,
    )
    adamw = AdamW(rest, lr=options.adamw_lr, betas=betas, weight_decay=0.0, fused=_fused(rest))
    return [muon, adamw]


def optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, torch.Tensor]:
    """All state as named tensors, for a file: ``0.17.momentum_buffer``."""
    return {
        f"{number}.{index}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def optimizer_misfit(optimizers: list[Optimizer], shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Why tensors of these names and ``shapes`` are not these optimizers' state; None if they are.

    A parameter may have no state yet: one that never had a gradient, or all of them before the
    first step.
    """
    left = dict(shapes)
    for number, optimizer in enumerate(optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        names = STATE_OF_MUON if isinstance(optimizer, Muon) else STATE_OF_ADAMW
        for index, parameter in enumerate(parameters):
            expected = {
                f"{number}.{index}.{name}": () if name == "step" else tuple(parameter.shape)
                for name in names
            }
            found = {key: left.pop(key) for key in expected if key in left}
            if found and found != expected:
                wrong = next(key for key in expected if found.get(key) != expected[key])
                return f"tensor {wrong} is missing, or has another shape than its parameter"
    return f"tensor {shortened(next(iter(left)), LONGEST_QUOTE)} is not expected" if left else None


def load_optimizer_tensors(optimizers: list[Optimizer], tensors: dict[str, torch.Tensor]) -> None:
    """What :func:`optimizer_tensors` gave, back into optimizers of the same parameters."""
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        content["state"] = {}
        for key, tensor in tensors.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == number:
                content["state"].setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict(content)


def _fused(parameters: list[nn.Parameter]) -> bool:
    """torch has one-kernel AdamW for these devices."""
    return parameters[0].device.type in {"cpu", "cuda"}
