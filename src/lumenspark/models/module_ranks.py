"""Linear layers of every kind, and low-rank ones in their place as ``module_ranks`` says."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .lowrank_linear import LowRankLinear


def apply_ranks(model: nn.Module, ranks: Mapping[str, int | None] | None, prefix: str = "") -> None:
    """Put fresh low-rank layers in the place of the linear layers that ``ranks`` names.

    The names are those of a whole language model, in which ``model`` is called ``prefix``. A layer
    without a rank (None) stays as it is.

    Raises ValueError for a name that is no linear layer's, and for a rank that saves nothing.
    """
    modules = dict(model.named_modules())
    for name, rank in (ranks or {}).items():
        inner_name = name.removeprefix(prefix)
        layer = modules.get(inner_name)
        if not is_linear(layer):
            raise ValueError(f"module_ranks: the model has no linear layer called {name!r}")
        if rank is None:
            continue
        low_rank = LowRankLinear(*shape_of(layer), rank, bias_of(layer) is not None)
        if getattr(layer, "starts_at_zero", False):
            low_rank.U.starts_at_zero = True  # type: ignore[assignment]  # then so does the product
        model.set_submodule(inner_name, low_rank)


def is_linear(module: Any) -> TypeGuard[nn.Module]:
    """Whether it is a linear layer that a low-rank one can stand for.

    Subclasses are not: their forward pass may do more, or may be left out for their weights.
    """
    return type(module) in (nn.Linear, Conv1D, LowRankLinear)


def shape_of(layer: Any) -> tuple[int, int]:
    """Features in and out."""
    if isinstance(layer, Conv1D):  # its weights are stored as (in, out)
        features_in, features_out = layer.weight.shape
        return features_in, features_out
    return layer.in_features, layer.out_features


def weight_of(layer: Any) -> Tensor:
    """The weights as nn.Linear stores them, (out, in)."""
    if isinstance(layer, LowRankLinear):
        return layer.U.weight @ layer.V.weight
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def bias_of(layer: Any) -> Tensor | None:
    return layer.U.bias if isinstance(layer, LowRankLinear) else layer.bias
