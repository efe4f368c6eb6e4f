"""Small language models: train one on a laptop in minutes, look inside it, carry it anywhere.

Importing this package loads neither torch nor transformers; its names resolve on first use.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:  # for editors and type checkers; _HOME says the same at run time
    from lumenspark import inspect
    from lumenspark.api import card, compress, evaluate, generate, prepare, push
    from lumenspark.inspect.architectures import inspect_names
    from lumenspark.inspect.patch import patch
    from lumenspark.inspect.trace import trace
    from lumenspark.loading import load
    from lumenspark.models import (
        LumensparkBackbone,
        LumensparkCache,
        LumensparkConfig,
        LumensparkForCausalLM,
        LumensparkForSequenceClassification,
        LumensparkModel,
        LumiereBackbone,
        LumiereConfig,
        LumiereForCausalLM,
        LumiereForSequenceClassification,
        LumiereModel,
    )
    from lumenspark.pipeline import resume, train
    from lumenspark.recipe import Recipe
    from lumenspark.runs.run import list_runs
    from lumenspark.sweeps.runner import sweep

__version__ = "0.2.0"

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
    "Recipe",
    "__version__",
    "card",
    "compress",
    "evaluate",
    "generate",
    "inspect",
    "inspect_names",
    "list_runs",
    "load",
    "patch",
    "prepare",
    "push",
    "resume",
    "sweep",
    "trace",
    "train",
]

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
    "card": "lumenspark.api",
    "compress": "lumenspark.api",
    "evaluate": "lumenspark.api",
    "generate": "lumenspark.api",
    "inspect_names": "lumenspark.inspect.architectures",
    "list_runs": "lumenspark.runs.run",
    "load": "lumenspark.loading",
    "patch": "lumenspark.inspect.patch",
    "prepare": "lumenspark.api",
    "push": "lumenspark.api",
    "sweep": "lumenspark.sweeps.runner",
    "trace": "lumenspark.inspect.trace",
    "train": "lumenspark.pipeline",
    "resume": "lumenspark.pipeline",
}

if not TYPE_CHECKING:  # otherwise a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name == "inspect":
            return import_module("lumenspark.inspect")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
