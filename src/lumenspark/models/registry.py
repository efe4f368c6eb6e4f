"""The model families: one table of their names and classes."""

from dataclasses import dataclass

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

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

Config = LumiereConfig | LumensparkConfig
LanguageModel = LumiereForCausalLM | LumensparkForCausalLM


@dataclass(frozen=True)
class Family:
    """The classes of one family. Its name is the ``model_type`` of the config."""

    config: type[Config]
    backbone: type
    language_model: type[LanguageModel]
    classifier: type


FAMILIES: dict[str, Family] = {
    "lumiere": Family(
        LumiereConfig, LumiereBackbone, LumiereForCausalLM, LumiereForSequenceClassification
    ),
    "lumenspark": Family(
        LumensparkConfig,
        LumensparkBackbone,
        LumensparkForCausalLM,
        LumensparkForSequenceClassification,
    ),
}


def register_auto_classes() -> None:
    """Add every family to transformers' Auto classes."""
    for name, family in FAMILIES.items():
        AutoConfig.register(name, family.config)
        AutoModel.register(family.config, family.backbone)
        AutoModelForCausalLM.register(family.config, family.language_model)
        AutoModelForSequenceClassification.register(family.config, family.classifier)
