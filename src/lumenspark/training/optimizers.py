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
    """AdamW for all parameters; or Muon for the blocks' matrices and AdamW for the rest.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) orthogonalises each matrix's
    momentum. This suits maps between hidden states, not embedding tables. Only the blocks' matrices
    have weight decay: it would pull the embeddings of rare tokens to zero, and the gains of the
    norms away from one.
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
    """All optimizer state as named tensors, such as ``0.17.momentum_buffer``, for a file."""
    return {
        f"{number}.{index}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def optimizer_misfit(optimizers: list[Optimizer], shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Why tensors with these ``shapes``, by name, do not fit the optimizers; None if they do.

    A parameter may have no state: before the first step, or if it never had a gradient.
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
                return f"tensor {wrong} is missing, or its shape differs from its parameter"
    return f"tensor {shortened(next(iter(left)), LONGEST_QUOTE)} is not expected" if left else None


def load_optimizer_tensors(optimizers: list[Optimizer], tensors: dict[str, torch.Tensor]) -> None:
    """Load the result of :func:`optimizer_tensors` into optimizers of the same parameters."""
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        content["state"] = {}
        for key, tensor in tensors.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == number:
                content["state"].setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict(content)


def _fused(parameters: list[nn.Parameter]) -> bool:
    """Whether torch has a fused AdamW for the device."""
    return parameters[0].device.type in {"cpu", "cuda"}
