"""The model families. Importing this package makes transformers' Auto classes know them."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

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

LumiereModel = LumiereForCausalLM
LumensparkModel = LumensparkForCausalLM

AutoConfig.register("lumiere", LumiereConfig)
AutoModel.register(LumiereConfig, LumiereBackbone)
AutoModelForCausalLM.register(LumiereConfig, LumiereForCausalLM)
AutoModelForSequenceClassification.register(LumiereConfig, LumiereForSequenceClassification)
AutoConfig.register("lumenspark", LumensparkConfig)
AutoModel.register(LumensparkConfig, LumensparkBackbone)
AutoModelForCausalLM.register(LumensparkConfig, LumensparkForCausalLM)
AutoModelForSequenceClassification.register(LumensparkConfig, LumensparkForSequenceClassification)

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
