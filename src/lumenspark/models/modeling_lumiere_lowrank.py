"""Lumiére with the low-rank layers of ``module_ranks``.

The ``auto_map`` of such a model names its classes here, so that the code of low-rank layers goes
beside its weights, and only there.
"""

from .modeling_lumiere import (
    LumiereBackbone,
    LumiereForCausalLM,
    LumiereForSequenceClassification,
)
from .module_ranks import apply_ranks

__all__ = [
    "LumiereBackbone",
    "LumiereForCausalLM",
    "LumiereForSequenceClassification",
    "make_low_rank",
]


def make_low_rank(backbone: LumiereBackbone) -> None:
    """Replace the linear layers that ``config.module_ranks`` names by low-rank ones."""
    apply_ranks(backbone, backbone.config.module_ranks, prefix="model.")
