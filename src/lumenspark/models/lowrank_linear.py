"""Low-rank linear layers: y = (x V) Uᵀ + b, and the initialisation of their factors."""

from typing import Any

import torch
from torch import Tensor, nn

from .layers import factor_std
from .peft_names import patch_peft_lookup


class LowRankLinear(nn.Module):
    """y = (x V) Uᵀ + b: a linear layer through ``rank`` features, r·(in + out) weights.

    Maps (..., in) to (..., out). ``V`` and ``U`` are plain linear layers, so that tools which look
    for ``nn.Linear`` find them: ``V.weight`` is (R, in), ``U.weight`` is (out, R).

    Raises ValueError for a rank that saves no parameters: in·out / (in + out) or more.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = False) -> None:
        super().__init__()
        most = highest_rank(in_features, out_features)
        if not 1 <= rank <= most:
            raise ValueError(
                f"rank {rank} for a layer from {in_features} to {out_features} features: choose "
                f"one from 1 to {most}; above that a dense layer has no more weights"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.V = nn.Linear(in_features, rank, bias=False)
        self.U = nn.Linear(rank, out_features, bias=bias)
        # _init_weights of a model visits V and U as separate layers.
        self.V.factor_of_rank = self.U.factor_of_rank = rank  # type: ignore[assignment]
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float | None = None) -> None:
        """Redraw the factors so that each weight of their product has standard deviation ``std``.

        Default: that of a dense ``nn.Linear`` of this shape, 1 / sqrt(3 in).
        """
        std = (3 * self.in_features) ** -0.5 if std is None else std
        nn.init.normal_(self.V.weight, std=factor_std(std, self.rank))
        nn.init.normal_(self.U.weight, std=factor_std(std, self.rank))
        if self.U.bias is not None:
            nn.init.zeros_(self.U.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.U(self.V(hidden))

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch. peft calls this before it looks a layer up by name."""
        patch_peft_lookup(LowRankLinear)
        return super().named_modules(*args, **kwargs)

    def to_dense(self) -> nn.Linear:
        """The equivalent dense layer."""
        weight = self.U.weight @ self.V.weight
        dense = nn.Linear(self.in_features, self.out_features, self.U.bias is not None)
        dense = dense.to(weight.device, weight.dtype)
        with torch.no_grad():
            dense.weight.copy_(weight)
            if self.U.bias is not None:
                dense.bias.copy_(self.U.bias)
        return dense

    @classmethod
    @torch.no_grad()
    def from_dense(cls, linear: nn.Linear, rank: int) -> tuple["LowRankLinear", float]:
        """The best approximation of that rank (truncated SVD; Eckart and Young 1936), and its
        relative error: the Frobenius norm of the difference over that of the weights.
        """
        layer = cls(linear.in_features, linear.out_features, rank, linear.bias is not None)
        layer = layer.to(linear.weight.device, linear.weight.dtype)
        left, singular, right = torch.linalg.svd(linear.weight.float(), full_matrices=False)
        root = singular[:rank].sqrt()
        layer.U.weight.copy_(left[:, :rank] * root)
        layer.V.weight.copy_(root[:, None] * right[:rank])
        if linear.bias is not None:
            layer.U.bias.copy_(linear.bias)
        total = float(singular.square().sum())
        error = (float(singular[rank:].square().sum()) / total) ** 0.5 if total else 0.0
        return layer, error


def highest_rank(in_features: int, out_features: int) -> int:
    """The highest rank whose two factors have fewer weights than the dense layer."""
    return (in_features * out_features - 1) // (in_features + out_features)
