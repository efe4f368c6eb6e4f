"""Any causal language model of transformers with the low-rank layers of its config.

``modeling_compressed.LlamaForCausalLM`` is transformers' class of that name in which the linear
layers named in ``config.module_ranks`` are low-rank, and likewise for every other architecture.
Config and tokenizer stay those of the architecture. The folder of a compressed model contains this
file, and its ``auto_map`` names the class in it. Loaded without ``trust_remote_code``, transformers
would build the plain architecture and, after a warning, leave those layers random.
"""

from functools import cache
from typing import Any

import transformers
from transformers import GenerationMixin, PreTrainedModel

from .module_ranks import apply_ranks


@cache
def low_rank_class(base: Any) -> Any:
    """The subclass of ``base``, a model class of transformers, that applies ``module_ranks``."""

    class LowRankModel(base, GenerationMixin):
        _auto_class = (
            "AutoModelForCausalLM"  # save_pretrained copies this file and adds it to auto_map
        )
        # Transformers determines these from the source file of the class: use those of the base.
        _can_set_attn_implementation = base._can_set_attn_implementation
        _can_set_experts_implementation = base._can_set_experts_implementation

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            apply_ranks(self, getattr(config, "module_ranks", None))

    LowRankModel.__name__ = LowRankModel.__qualname__ = base.__name__
    return LowRankModel


def model_class(name: str) -> Any:
    """The class of that name in this module. Raises ValueError if transformers has none."""
    base = getattr(transformers, name, None)
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        raise ValueError(f"transformers has no model called {name!r}")
    return low_rank_class(base)


def __getattr__(name: str) -> Any:
    try:
        return model_class(name)
    except ValueError as error:
        raise AttributeError(str(error)) from error
