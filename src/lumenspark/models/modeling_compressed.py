"""Any causal language model of transformers, with low-rank layers where its config says so.

``modeling_compressed.LlamaForCausalLM`` is transformers' class of that name, in which the linear
layers that ``config.module_ranks`` names are low-rank; so for every other architecture. Config,
tokenizer and everything else stay those of the architecture. A compressed model's folder holds
this file, and its ``auto_map`` names the class in it. Loaded without ``trust_remote_code``,
transformers would build the plain architecture and, after a warning, leave those layers random.
"""

from functools import cache
from typing import Any

import transformers
from transformers import GenerationMixin, PreTrainedModel

from .module_ranks import apply_ranks


@cache
def low_rank_class(base: Any) -> Any:
    """The subclass of ``base``, an architecture of transformers, that honours ``module_ranks``."""

    class LowRankModel(base, GenerationMixin):
        _auto_class = "AutoModelForCausalLM"  # save_pretrained copies this file, and names it
        # Transformers answers these by looking into the file of the class: that of the base.
        _can_set_attn_implementation = base._can_set_attn_implementation
        _can_set_experts_implementation = base._can_set_experts_implementation

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            apply_ranks(self, getattr(config, "module_ranks", None))

    LowRankModel.__name__ = LowRankModel.__qualname__ = base.__name__
    return LowRankModel


def model_class(name: str) -> Any:
    """The class of that name in this module. Raises ValueError where transformers has no such."""
    base = getattr(transformers, name, None)
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        raise ValueError(f"transformers has no model called {name!r}")
    return low_rank_class(base)


def __getattr__(name: str) -> Any:
    try:
        return model_class(name)
    except ValueError as error:
        raise AttributeError(str(error)) from error
