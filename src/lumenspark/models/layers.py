"""The small parts that the model families share."""

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
