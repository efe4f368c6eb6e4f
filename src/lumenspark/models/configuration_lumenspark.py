"""The configuration of Lumenspark, a transformer with low-rank layers and low-rank attention."""

import json
import math
import re
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from .config_checks import (
    check_counts,
    check_floats,
    check_ranks,
    check_token_ids,
    checked,
    quoted,
)
from .legacy_checkpoints import is_old_config, translate_config
from .lowrank_linear import highest_rank
from .tensor_names import TensorSizes

# The most slots, and tokens in a window, for a shorter ``seq_length``.
USEFUL = 4096

# The layers that can have a rank: arguments of :meth:`LumensparkConfig.rank_of`.
LAYER_NAME = re.compile(
    r"model\.layers\.(\d{1,9})\.(?:attention\.[qkvo]_proj|feed_forward\.(?:up|down)_proj)"
)


@checked
class LumensparkConfig(PreTrainedConfig):
    """Names of transformers (``hidden_size``, …) are accepted too.

    ``rank``: of every linear layer in the blocks (None: dense); ``module_ranks`` overrides it for
    single layers, by their name in the language model
    (``{"model.layers.0.attention.q_proj": None}``).
    ``k``: slots per head (0: window only; None: dense attention).
    ``window``: tokens in a block; a token attends exactly to its own block and the one before.
    ``projection``: whether a token's key (``content``) or position (``position``) determines the
    slots it is written to.
    ``layer_scale``: initial value of LayerScale on the outputs of both sublayers.
    ``dropout``: on the embeddings and the outputs of both sublayers.
    """

    model_type = "lumenspark"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  # Trainer adds a list to it
    attribute_map = {  # noqa: RUF012
        "max_position_embeddings": "seq_length",
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
    }

    seq_length: int = 768
    vocab_size: int = 50257
    embed_dim: int = 768
    depth: int = 8
    heads: int = 12
    dropout: float = 1 / 17
    k: int | None = 64
    rank: int | None = 256
    window: int = 64
    projection: Literal["content", "position"] = "content"
    layer_scale: float = 0.1
    module_ranks: dict[str, int | None] | None = None
    attention_bias: bool = False
    head_bias: bool = False
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # The code that save_pretrained copies beside the weights, for trust_remote_code.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_lumenspark.LumensparkConfig",
                "AutoModel": "modeling_lumenspark.LumensparkBackbone",
                "AutoModelForCausalLM": "modeling_lumenspark.LumensparkForCausalLM",
                "AutoModelForSequenceClassification": (
                    "modeling_lumenspark.LumensparkForSequenceClassification"
                ),
            },
        )
        super().__post_init__(**kwargs)  # maps transformers' names to ours
        check_counts(self, "seq_length", "vocab_size", "embed_dim", "depth", "window")
        check_floats(
            self,
            dropout=(0, 1),
            layer_scale=(-math.inf, math.inf),
            layer_norm_eps=(0, math.inf),
            initializer_range=(0, math.inf),
        )
        check_token_ids(self)
        check_ranks(self.module_ranks)
        for name in self.module_ranks or {}:
            found = LAYER_NAME.fullmatch(name)
            if found is None or not int(found[1]) < self.depth:
                raise ValueError(
                    f"module_ranks: a model of depth={self.depth} has no low-rank layer called "
                    f"{quoted(name)}"
                )
        if type(self.heads) is not int or self.heads < 1 or self.embed_dim % self.heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} must be a multiple of heads={quoted(self.heads)}"
            )
        if self.k is not None and self.k < 0:
            raise ValueError(f"k={quoted(self.k)} must be 0 or more, or null for dense attention")
        useful = max(self.seq_length, USEFUL)
        for name in ("k", "window"):
            if (getattr(self, name) or 0) > useful:
                raise ValueError(
                    f"{name}={quoted(getattr(self, name))} must be {useful} or less: more than a "
                    "text has tokens only wastes memory"
                )
        most = highest_rank(self.embed_dim, self.embed_dim)
        if self.rank is not None and not 1 <= self.rank <= most:
            raise ValueError(
                f"rank={self.rank} must be from 1 to {most} for embed_dim={self.embed_dim}, beyond "
                "which it saves nothing; null makes the layers dense"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers (used by ``from_pretrained``); also reads configs of 0.1.x."""
        if is_old_config(config_dict):
            config_dict = translate_config(config_dict)
        for theirs, ours in cls.attribute_map.items():
            if {theirs, ours} <= config_dict.keys() and config_dict[theirs] != config_dict[ours]:
                raise ValueError(
                    f"{theirs}={quoted(config_dict[theirs])} and {ours}="
                    f"{quoted(config_dict[ours])} are names of the same number: omit one of them"
                )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_json_file(cls, json_file: str | PathLike[str]) -> Any:
        """As in transformers; also reads configs of 0.1.x."""
        return cls.from_dict(json.loads(Path(json_file).read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with its names too, for tools that read them (peft)."""
        theirs = {name: getattr(self, ours) for name, ours in self.attribute_map.items()}
        return super().to_dict() | theirs

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.heads

    def rank_of(self, name: str) -> int | None:
        """The rank of a linear layer by its name in the language model; None: dense."""
        return (self.module_ranks or {}).get(name, self.rank)

    @property
    def tensor_sizes(self) -> TensorSizes:
        """The sizes that determine the shapes of the model's inner tensors."""
        return TensorSizes(
            layers=self.depth,
            heads=self.heads,
            key_heads=self.heads,
            head_dim=self.head_dim,
            width=self.embed_dim,
            units=4 * self.embed_dim,
            vocabulary=self.vocab_size,
            slots=self.k,
        )
