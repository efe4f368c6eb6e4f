"""Small layers that the families share, and the initialisation of linear layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SwiGLU(nn.Module):
    """Gated feed-forward: (silu(x G) * (x U)) W (Shazeer 2020, arXiv 2002.05202).

    Maps (..., E) to (..., E) through ``gated_size`` hidden units; no biases.
    """

    def __init__(self, hidden_size: int, gated_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, gated_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, gated_size, bias=False)
        self.down_proj = nn.Linear(gated_size, hidden_size, bias=False)
        self.down_proj.starts_at_zero = True  # type: ignore[assignment]  # see _init_weights

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class LayerScale(nn.Module):
    """A learned factor per feature of a sublayer's output (Touvron et al. 2021, arXiv 2103.17239).

    Small initial values make each block start close to the identity.
    """

    def __init__(self, features: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale = nn.Parameter(torch.full((features,), initial))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale


def linear_std(layer: nn.Module, std: float) -> float:
    """The standard deviation to initialise ``layer`` with, so that its product weights have
    ``std``: lower for the factors of a ``LowRankLinear``, which carry ``factor_of_rank``.
    """
    rank = getattr(layer, "factor_of_rank", None)
    return std if rank is None else factor_std(std, int(rank))


def factor_std(std: float, rank: int) -> float:
    """The standard deviation of two factors whose product has the standard deviation ``std``.

    An entry of the product is a sum of ``rank`` products of independent entries.
    """
    return (std / rank**0.5) ** 0.5
