"""The model families. Importing this package makes transformers' Auto classes know them."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .cache import LumensparkCache
from .configuration_lumenspark import LumensparkConfig
from .configuration_lumiere import LumiereConfig
from .modeling_lumenspark import LumensparkBackbone, LumensparkForCausalLM
from .modeling_lumiere import LumiereBackbone, LumiereForCausalLM

LumiereModel = LumiereForCausalLM
LumensparkModel = LumensparkForCausalLM

AutoConfig.register("lumiere", LumiereConfig)
AutoModel.register(LumiereConfig, LumiereBackbone)
AutoModelForCausalLM.register(LumiereConfig, LumiereForCausalLM)
AutoConfig.register("lumenspark", LumensparkConfig)
AutoModel.register(LumensparkConfig, LumensparkBackbone)
AutoModelForCausalLM.register(LumensparkConfig, LumensparkForCausalLM)

__all__ = [
    "LumensparkBackbone",
    "LumensparkCache",
    "LumensparkConfig",
    "LumensparkForCausalLM",
    "LumensparkModel",
    "LumiereBackbone",
    "LumiereConfig",
    "LumiereForCausalLM",
    "LumiereModel",
]
