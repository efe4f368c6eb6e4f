"""The model families. Importing this package makes transformers' Auto classes know them."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_lumiere import LumiereConfig
from .modeling_lumiere import LumiereBackbone, LumiereForCausalLM

LumiereModel = LumiereForCausalLM

AutoConfig.register("lumiere", LumiereConfig)
AutoModel.register(LumiereConfig, LumiereBackbone)
AutoModelForCausalLM.register(LumiereConfig, LumiereForCausalLM)

__all__ = ["LumiereBackbone", "LumiereConfig", "LumiereForCausalLM", "LumiereModel"]
