"""Replacement of linear layers by low-rank ones according to ``module_ranks``."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .lowrank_linear import LowRankLinear


def apply_ranks(model: nn.Module, ranks: Mapping[str, int | None] | None, prefix: str = "") -> None:
    """Replace the linear layers named in ``ranks`` by freshly initialised low-rank layers.

    Names are those in the whole language model, where ``model`` has the name ``prefix``. A layer
    with rank None is unchanged.

    Raises ValueError for a name that is not a linear layer, and for a rank that saves no
    parameters.
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
            low_rank.U.starts_at_zero = True  # type: ignore[assignment]  # so the product starts at zero too
        model.set_submodule(inner_name, low_rank)


def is_linear(module: Any) -> TypeGuard[nn.Module]:
    """Whether ``module`` is a linear layer that a low-rank layer can replace.

    Subclasses are not: their forward pass can do more, and callers can bypass it.
    """
    return type(module) in (nn.Linear, Conv1D, LowRankLinear)


def shape_of(layer: Any) -> tuple[int, int]:
    """Input and output features."""
    if isinstance(layer, Conv1D):  # its weights are stored as (in, out)
        features_in, features_out = layer.weight.shape
        return features_in, features_out
    return layer.in_features, layer.out_features


def weight_of(layer: Any) -> Tensor:
    """The weights in the layout of nn.Linear, (out, in)."""
    if isinstance(layer, LowRankLinear):
        return layer.U.weight @ layer.V.weight
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def bias_of(layer: Any) -> Tensor | None:
    return layer.U.bias if isinstance(layer, LowRankLinear) else layer.bias
