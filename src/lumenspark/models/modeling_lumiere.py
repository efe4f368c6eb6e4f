"""Lumiére: RMSNorm, causal attention, SwiGLU, learned positions, tied output."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedModel
from transformers import initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .attention import dense_attention
from .classification import SequenceClassificationMixin
from .configuration_lumiere import LumiereConfig
from .decoder import DecoderMixin, LanguageModelMixin
from .generation import TextGenerationMixin
from .layers import SwiGLU, linear_std


def lowrank_code() -> Any:
    """The module of models with ``module_ranks``.

    Imported by name, since transformers copies every file in an import statement beside the
    weights, and most models have no low-rank layers.
    """
    return import_module(".modeling_lumiere_lowrank", __package__)


class LumiereAttention(nn.Module):
    """Multi-head causal self-attention: (B, T, E) to (B, T, E)."""

    def __init__(self, config: LumiereConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = True  # read by transformers' sdpa when it is given no mask
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj.starts_at_zero = True  # type: ignore[assignment]  # see _init_weights

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Any,
        past_key_values: Cache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """``attention_mask`` has the form of the chosen attention implementation.

        Returns the output (B, T, E) and, for ``output_attentions``, the weights (B, H, T, S).
        """
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        dropout = self.config.dropout if self.training else 0.0
        output, weights = dense_attention(
            self, query, key, value, attention_mask, dropout, output_attentions
        )
        return self.o_proj(output.flatten(2)), weights


class LumiereBlock(GradientCheckpointingLayer):
    """One pre-normalised block: attention, then the gated feed-forward layer."""

    def __init__(self, config: LumiereConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = LumiereAttention(config, layer_idx)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.gated_size)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.self_attn(
            self.input_layernorm(hidden), attention_mask, past_key_values, output_attentions
        )
        dropout = self.config.dropout
        hidden = hidden + functional.dropout(attended, dropout, self.training)
        transformed = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + functional.dropout(transformed, dropout, self.training), weights


class LumierePreTrainedModel(PreTrainedModel):
    config_class = LumiereConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("LumiereBlock",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Transformers searches this file for the attention interface, which attention.py uses.
    _can_set_attn_implementation_cached_value = True

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which copies this file; of low-rank layers, their code too."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.config.module_ranks:
            custom_object_save(lowrank_code().make_low_rank, save_directory)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights; layers that write to the residual stream start at zero.

        Transformers calls this for each module with parameters of its own.
        """
        if getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            std = linear_std(module, self.config.initializer_range)
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)


class LumiereBackbone(DecoderMixin, LumierePreTrainedModel):
    """Token ids to the last hidden states, without a head: the class of ``AutoModel``."""

    def __init__(self, config: LumiereConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            LumiereBlock(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if config.module_ranks:
            lowrank_code().make_low_rank(self)
        self.gradient_checkpointing = False
        self.post_init()


class LumiereForCausalLM(LanguageModelMixin, TextGenerationMixin, LumierePreTrainedModel):
    """Lumiére with its output layer: token ids to next-token logits, loss and text.

    ``LumiereModel`` is an alias.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LumiereConfig) -> None:
        super().__init__(config)
        self.model = LumiereBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class LumiereForSequenceClassification(SequenceClassificationMixin, LumierePreTrainedModel):
    """Lumiére with a classifier on the last token, to be finetuned from a language model."""

    def __init__(self, config: LumiereConfig) -> None:
        super().__init__(config)
        self.model = LumiereBackbone(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


LumiereConfig.register_for_auto_class()
LumiereBackbone.register_for_auto_class("AutoModel")
LumiereForCausalLM.register_for_auto_class("AutoModelForCausalLM")
# Trainer recognises by this name that label smoothing compares each token with the next label.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[LumiereConfig.model_type] = LumiereForCausalLM.__name__
LumiereForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
