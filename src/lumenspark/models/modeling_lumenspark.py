"""Lumenspark: low-rank linear layers, causal low-rank attention, LayerNorm, LayerScale, GELU."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .attention import dense_attention
from .cache import LumensparkCache
from .classification import SequenceClassificationMixin
from .configuration_lumenspark import LumensparkConfig
from .decoder import DecoderMixin, LanguageModelMixin
from .generation import TextGenerationMixin
from .layers import LayerScale, linear_std
from .legacy_checkpoints import (
    HUB_ARGUMENTS,
    gpt2_tokenizer,
    has_gpt2_vocabulary,
    read_old_config,
    read_old_weights,
)
from .lowrank_attention_chunk import chunk_lowrank_attention
from .lowrank_attention_map import lowrank_attention_map
from .lowrank_attention_packed import packed_lowrank_attention
from .lowrank_attention_recurrent import recurrent_lowrank_attention
from .lowrank_attention_slots import LowRankSettings
from .lowrank_attention_state import LowRankState
from .lowrank_linear import LowRankLinear
from .packing import Texts, low_rank_texts, recent_mask


def make_linear(
    config: LumensparkConfig, name: str, in_features: int, out_features: int, bias: bool = False
) -> nn.Module:
    """The linear layer ``name``: low-rank, or dense if the config has no rank for it."""
    rank = config.rank_of(name)
    if rank is None:
        return nn.Linear(in_features, out_features, bias)
    return LowRankLinear(in_features, out_features, rank, bias)


def refuse_export() -> None:
    """Raises ValueError during tracing and export: a trace fixes the number of blocks.

    The result would be wrong for longer texts.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise ValueError(
            "low-rank attention cannot be traced or exported, because the number of blocks would "
            "be that of the example: run the model itself, or use torch.compile"
        )


class LumensparkAttention(nn.Module):
    """Multi-head causal self-attention: (B, T, E) to (B, T, E). Low-rank, or dense for k=None."""

    def __init__(self, config: LumensparkConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = True  # read by transformers' sdpa when it is given no mask
        name, width = f"model.layers.{layer_idx}.attention", config.embed_dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            make_linear(config, f"{name}.{part}", width, width, config.attention_bias)
            for part in ("q_proj", "k_proj", "v_proj", "o_proj")
        )
        if config.k and config.projection == "content":  # (H, D, K)
            self.write = nn.Parameter(torch.empty(config.heads, config.head_dim, config.k))
        elif config.k:  # (H, seq_length, K)
            self.write = nn.Parameter(torch.empty(config.heads, config.seq_length, config.k))

    @property
    def lowrank_settings(self) -> LowRankSettings:
        """The settings of low-rank attention (k=None has none)."""
        return LowRankSettings(
            project=self.project if self.config.k else None,
            # A block of the context's length already covers the context.
            window=min(self.config.window, self.config.seq_length),
            scaling=self.scaling,
        )

    def project(self, key: Tensor, positions: Tensor) -> Tensor:
        """The write weights (B, H, T, K) of tokens, by keys (B, H, T, D) or positions (1 or B, T).

        Each token's weights sum to 1.
        """
        if self.config.projection == "content":
            return (key @ self.write.to(key.dtype)).softmax(dim=-1, dtype=torch.float32)
        return self.write[:, positions].transpose(0, 1).softmax(dim=-1, dtype=torch.float32)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Any,
        past_key_values: Cache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """``attention_mask``: (B, T) boolean, False at pads, or a list of packed :class:`Texts`
        (for k=None: as for dense attention).

        Returns the output (B, T, E) and, for ``output_attentions``, the weights (B, H, T, T).
        """
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.config.k is None:
            if past_key_values is not None:
                key, value = past_key_values.update(key, value, self.layer_idx)
            output, weights = dense_attention(
                self, query, key, value, attention_mask, 0.0, output_attentions
            )
            return self.o_proj(output.flatten(2)), weights
        output, weights = self._low_rank(
            query, key, value, attention_mask, past_key_values, output_attentions
        )
        return self.o_proj(output.transpose(1, 2).flatten(2)), weights

    def _low_rank(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | list[Texts] | None,
        past_key_values: Cache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The output (B, H, T, D), and the weights or None; updates ``past_key_values``."""
        refuse_export()
        settings = self.lowrank_settings
        if isinstance(mask, list):
            if past_key_values is not None:  # reached only under torch.compile
                raise ValueError("several texts in a row cannot be cached: pass use_cache=False")
            return packed_lowrank_attention(query, key, value, settings, mask, output_attentions)
        layer = None if past_key_values is None else past_key_values.layers[self.layer_idx]
        if output_attentions and layer is not None and layer.get_seq_length():
            raise ValueError(
                "the weights on tokens that are only in the cache cannot be computed: give "
                "the whole text, or use_cache=False"
            )
        if layer is None:
            output, _ = chunk_lowrank_attention(query, key, value, settings, mask)
        else:
            state: LowRankState | None = layer.state
            if state is not None and query.shape[2] == 1:
                output, state = recurrent_lowrank_attention(
                    query, key, value, settings, state, mask
                )
            else:
                output, state = chunk_lowrank_attention(
                    query, key, value, settings, mask, state, return_state=True
                )
            layer.advance(state, query.shape[2])
        weights = lowrank_attention_map(query, key, settings, mask) if output_attentions else None
        return output, weights


class LumensparkFeedForward(nn.Module):
    """W2 gelu(W1 x): (..., E) to (..., E) through 4·E units."""

    def __init__(self, config: LumensparkConfig, layer_idx: int) -> None:
        super().__init__()
        name, width = f"model.layers.{layer_idx}.feed_forward", config.embed_dim
        self.up_proj = make_linear(config, f"{name}.up_proj", width, 4 * width)
        self.down_proj = make_linear(config, f"{name}.down_proj", 4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(functional.gelu(self.up_proj(hidden)))


class LumensparkBlock(GradientCheckpointingLayer):
    """One pre-normalised block, each sublayer scaled and added to the residual stream."""

    def __init__(self, config: LumensparkConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.attention = LumensparkAttention(config, layer_idx)
        self.attention_scale = LayerScale(config.embed_dim, config.layer_scale)
        self.feed_forward_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.feed_forward = LumensparkFeedForward(config, layer_idx)
        self.feed_forward_scale = LayerScale(config.embed_dim, config.layer_scale)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.attention(
            self.attention_norm(hidden), attention_mask, past_key_values, output_attentions
        )
        dropout = self.config.dropout
        attended = functional.dropout(attended, dropout, self.training)
        hidden = hidden + self.attention_scale(attended)
        transformed = self.feed_forward(self.feed_forward_norm(hidden))
        transformed = functional.dropout(transformed, dropout, self.training)
        return hidden + self.feed_forward_scale(transformed), weights


class LumensparkPreTrainedModel(PreTrainedModel):
    config_class = LumensparkConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("LumensparkBlock",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Transformers searches this file for the attention interface, which attention.py uses.
    _can_set_attn_implementation_cached_value = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """As in transformers, but safetensors only; checkpoints of lumenspark 0.1.x load too.

        Raises ValueError for an old checkpoint with missing, unknown or misshapen tensors.
        """
        kwargs["use_safetensors"] = True  # other files are pickles
        name = pretrained_model_name_or_path
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        content = None if name is None else read_old_config(name, **hub)
        if content is None:
            return super().from_pretrained(name, *args, config=config, **kwargs)
        known = (
            config if isinstance(config, PreTrainedConfig) else LumensparkConfig.from_dict(content)
        )
        weights = read_old_weights(name, known, **hub)
        loaded = super().from_pretrained(
            None, *args, config=config or name, state_dict=weights, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        model.name_or_path = model.config.name_or_path = str(name)  # where its tokenizer is
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights; the product of a low-rank layer has the variance of a dense layer.

        Transformers calls this for each module with parameters of its own.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=linear_std(module, std))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LayerScale):
            init.constant_(module.scale, module.initial)
        elif isinstance(module, LumensparkAttention) and self.config.k:
            init.normal_(module.write, mean=0.0, std=1.0)  # slots that differ from the start


class LumensparkBackbone(DecoderMixin, LumensparkPreTrainedModel):
    """Token ids to the last hidden states, without a head: the class of ``AutoModel``."""

    def __init__(self, config: LumensparkConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embed_dim)
        self.embed_positions = nn.Embedding(config.seq_length, config.embed_dim)
        self.layers = nn.ModuleList(LumensparkBlock(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def new_cache(self) -> Cache:
        """An empty cache, of constant size unless k is None."""
        if self.config.k is None:
            return DynamicCache(config=self.config)
        return LumensparkCache(self.config.depth)

    def attention_mask(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None,
    ) -> Any:
        """(B, T) boolean, False at pads; None without pads; for packed rows, a list of
        :class:`Texts`. For k=None, a dense mask.

        Raises ValueError for masks of other shapes, and for caches and positions that low-rank
        attention cannot use.
        """
        if self.config.k is None:
            return super().attention_mask(
                inputs_embeds, attention_mask, past_key_values, position_ids
            )
        refuse_export()
        if past_key_values is not None and not isinstance(past_key_values, LumensparkCache):
            raise ValueError(
                f"low-rank attention keeps its state in a LumensparkCache, not in a "
                f"{type(past_key_values).__name__}: use model.model.new_cache(), and LoRA or "
                "prompt tuning instead of prefix tuning"
            )
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                "low-rank attention takes a mask of shape (batch, tokens), not of "
                f"{attention_mask.ndim} dimensions"
            )
        mask = recent_mask(attention_mask, inputs_embeds.shape[1])
        if position_ids is None:
            return mask
        state = None if past_key_values is None else past_key_values.layers[0].state
        return low_rank_texts(position_ids, mask, None if state is None else state.count)


class LumensparkForCausalLM(LanguageModelMixin, TextGenerationMixin, LumensparkPreTrainedModel):
    """Lumenspark with its output layer: token ids to next-token logits, loss and text.

    ``LumensparkModel`` is an alias.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LumensparkConfig) -> None:
        super().__init__(config)
        self.model = LumensparkBackbone(config)
        # Writes to a slot cannot be undone, so generate() must not use speculative decoding.
        self._is_stateful = config.k is not None
        self.lm_head = nn.Linear(config.embed_dim, config.vocab_size, bias=config.head_bias)
        self.post_init()

    def _own_tokenizer(self) -> Any:
        """As in the base; GPT-2's for checkpoints of lumenspark 0.1, which have none."""
        try:
            return super()._own_tokenizer()
        except ValueError:
            if not has_gpt2_vocabulary(self.config):
                raise
        self._tokenizer_beside_weights = gpt2_tokenizer()
        return self._tokenizer_beside_weights

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, with a cache of constant size."""
        if self.config.k is not None and generation_config.is_assistant:
            raise ValueError(
                "a model with low-rank attention cannot be the assistant of another: rejected "
                "tokens cannot be removed from its state, so use dense attention (k=None)"
            )
        asked = generation_config.use_cache and self.config.k is not None
        if asked and model_kwargs.get("past_key_values") is None:
            if generation_config.cache_implementation not in (None, "dynamic"):
                raise ValueError(
                    f"cache_implementation={generation_config.cache_implementation!r}: low-rank "
                    "attention has its own cache, so omit this"
                )
            model_kwargs["past_key_values"] = cast(LumensparkBackbone, self.model).new_cache()
            return None
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *args, **kwargs
        )


class LumensparkForSequenceClassification(SequenceClassificationMixin, LumensparkPreTrainedModel):
    """Lumenspark with a classifier on the last token, to be finetuned from a language model."""

    def __init__(self, config: LumensparkConfig) -> None:
        super().__init__(config)
        self.model = LumensparkBackbone(config)
        self.score = nn.Linear(config.embed_dim, config.num_labels, bias=False)
        self.post_init()


LumensparkConfig.register_for_auto_class()
LumensparkBackbone.register_for_auto_class("AutoModel")
LumensparkForCausalLM.register_for_auto_class("AutoModelForCausalLM")
# Trainer recognises by this name that label smoothing compares each token with the next label.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[LumensparkConfig.model_type] = LumensparkForCausalLM.__name__
LumensparkForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
