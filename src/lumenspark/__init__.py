"""Small language models: train one on a laptop in minutes, look inside it, carry it anywhere.

Importing this package loads neither torch nor transformers; its names resolve on first use.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.2.0"

_HOME = {
    "LumiereConfig": "lumenspark.models",
    "LumiereBackbone": "lumenspark.models",
    "LumiereForCausalLM": "lumenspark.models",
    "LumiereForSequenceClassification": "lumenspark.models",
    "LumiereModel": "lumenspark.models",
    "LumensparkConfig": "lumenspark.models",
    "LumensparkBackbone": "lumenspark.models",
    "LumensparkForCausalLM": "lumenspark.models",
    "LumensparkForSequenceClassification": "lumenspark.models",
    "LumensparkModel": "lumenspark.models",
    "LumensparkCache": "lumenspark.models",
    "Recipe": "lumenspark.recipe",
    "inspect_names": "lumenspark.inspect.architectures",
    "load": "lumenspark.loading",
    "patch": "lumenspark.inspect.patch",
    "trace": "lumenspark.inspect.trace",
    "train": "lumenspark.pipeline",
    "resume": "lumenspark.pipeline",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
