"""Small layers that the families share."""

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
