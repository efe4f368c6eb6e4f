"""The configuration of Lumiére, a small decoder-only transformer built for interpretability."""

import math
from typing import Any

from transformers import PreTrainedConfig

from .config_checks import check_counts, check_floats, check_ranks, check_token_ids, checked
from .tensor_names import TensorSizes


@checked
class LumiereConfig(PreTrainedConfig):
    """The defaults are Lumiére-1M: 1,053,824 parameters.

    ``intermediate_size`` is the width of a plain feed-forward layer with the parameter budget of
    the gated one, which has three matrices instead of two and is 2/3 as wide (Shazeer 2020),
    rounded down to a multiple of 8: :attr:`gated_size`.
    ``dropout`` applies to the embeddings, the attention weights and the outputs of both sublayers.
    ``module_ranks`` maps names of low-rank linear layers in the language model to their ranks
    (``{"model.layers.0.self_attn.q_proj": 16}``).
    """

    model_type = "lumiere"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  # Trainer adds a list to it

    vocab_size: int = 4096
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 256
    max_position_embeddings: int = 64
    dropout: float = 0.1
    rms_norm_eps: float = 1e-6
    module_ranks: dict[str, int | None] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    pad_token_id: int | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        check_counts(
            self,
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        )
        check_floats(
            self, dropout=(0, 1), rms_norm_eps=(0, math.inf), initializer_range=(0, math.inf)
        )
        check_token_ids(self)
        check_ranks(self.module_ranks)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.gated_size < 8:
            raise ValueError(
                f"intermediate_size={self.intermediate_size} must be at least 12, which makes 8 "
                "gated units"
            )
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the code beside the weights that trust_remote_code runs."""
        code = "modeling_lumiere_lowrank" if self.module_ranks else "modeling_lumiere"
        auto_map = {
            "AutoConfig": "configuration_lumiere.LumiereConfig",
            "AutoModel": f"{code}.LumiereBackbone",
            "AutoModelForCausalLM": f"{code}.LumiereForCausalLM",
            "AutoModelForSequenceClassification": f"{code}.LumiereForSequenceClassification",
        }
        return {**super().to_dict(), "auto_map": auto_map}

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def gated_size(self) -> int:
        """Width of the gated feed-forward layer: 168 for ``intermediate_size`` 256."""
        return self.intermediate_size * 2 // 3 // 8 * 8

    @property
    def tensor_sizes(self) -> TensorSizes:
        """The sizes that determine the shapes of the model's inner tensors."""
        return TensorSizes(
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            key_heads=self.num_attention_heads,
            head_dim=self.head_dim,
            width=self.hidden_size,
            units=self.gated_size,
            vocabulary=self.vocab_size,
            gated=True,
        )
