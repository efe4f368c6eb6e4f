"""The model families. Importing this package registers them with transformers' Auto classes."""

from .cache import LumensparkCache
from .configuration_lumenspark import LumensparkConfig
from .configuration_lumiere import LumiereConfig
from .modeling_lumenspark import (
    LumensparkBackbone,
    LumensparkForCausalLM,
    LumensparkForSequenceClassification,
)
from .modeling_lumiere import (
    LumiereBackbone,
    LumiereForCausalLM,
    LumiereForSequenceClassification,
)
from .registry import register_auto_classes

LumiereModel = LumiereForCausalLM
LumensparkModel = LumensparkForCausalLM

register_auto_classes()

__all__ = [
    "LumensparkBackbone",
    "LumensparkCache",
    "LumensparkConfig",
    "LumensparkForCausalLM",
    "LumensparkForSequenceClassification",
    "LumensparkModel",
    "LumiereBackbone",
    "LumiereConfig",
    "LumiereForCausalLM",
    "LumiereForSequenceClassification",
    "LumiereModel",
]
