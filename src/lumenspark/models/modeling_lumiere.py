"""Lumiére: RMSNorm, causal attention, SwiGLU, learned positions, tied output."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

from .attention import attention_weights, dense_mask, matmul_attention_forward
from .configuration_lumiere import LumiereConfig
from .generation import TextGenerationMixin, check_length, positions_from_mask
from .layers import SwiGLU


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
        """``attention_mask`` is what the chosen attention implementation takes.

        Returns the output (B, T, E) and, when asked for, the weights (B, H, T, S).
        """
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, matmul_attention_forward
        )
        dropout = self.config.dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout
        )
        if output_attentions and weights is None:
            # The fast path keeps no weights. They are computed beside it, so that asking for
            # them changes nothing in the output.
            weights = attention_weights(query, key, dense_mask(attention_mask), self.scaling)
        return self.o_proj(output.flatten(2)), weights if output_attentions else None


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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights; what writes to the residual stream starts at zero.

        Transformers calls this with each module, but for those that hold no weights of their own.
        """
        if getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)


class LumiereBackbone(LumierePreTrainedModel):
    """Token ids to the last hidden states; no head. This is what ``AutoModel`` finds."""

    def __init__(self, config: LumiereConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            LumiereBlock(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """``input_ids`` (B, T) or ``inputs_embeds`` (B, T, E); ``attention_mask`` (B, S).

        Without ``position_ids`` (B, T) a row's positions count its own tokens, pads left out
        (0 in the mask).
        ``hidden_states`` holds the embeddings, then each block's output, the last one normalised;
        ``attentions`` holds each block's weights (B, H, T, S).

        Raises ValueError where a row is longer than ``max_position_embeddings``.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        keep_cache = self.config.use_cache if use_cache is None else use_cache
        if self.training:
            keep_cache = False
        if keep_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        with_attentions = _asked(output_attentions, self.config.output_attentions)
        with_states = _asked(output_hidden_states, self.config.output_hidden_states)

        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden = inputs_embeds + self._positions(
            inputs_embeds, attention_mask, position_ids, past_key_values
        )
        hidden = functional.dropout(hidden, self.config.dropout, self.training)
        states, attentions = [hidden], []
        for block in self.layers:
            hidden, weights = block(
                hidden,
                attention_mask=mask,
                past_key_values=past_key_values,
                output_attentions=with_attentions,
            )
            states.append(hidden)
            attentions.append(weights)
        hidden = self.norm(hidden)
        states[-1] = hidden
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past_key_values if keep_cache else None,
            hidden_states=tuple(states) if with_states else None,
            attentions=tuple(attentions) if with_attentions else None,
        )

    def _positions(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Cache | None,
    ) -> Tensor:
        """The position embeddings (1 or B, T, E) of the tokens that are fed now."""
        length = inputs_embeds.shape[1]
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        context = self.config.max_position_embeddings
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = positions_from_mask(attention_mask)[:, -length:]
        if position_ids is None:
            check_length(past + length, context)
            position_ids = torch.arange(length, device=inputs_embeds.device)[None] + past
        elif not torch.compiler.is_compiling() and past + length > context:
            # Padded rows may be shorter than they look; only then is the maximum worth a look.
            check_length(int(position_ids.max()) + 1, context)
        return self.embed_positions(position_ids)


class LumiereForCausalLM(TextGenerationMixin, LumierePreTrainedModel):
    """Lumiére with its output layer: token ids to next-token logits, loss, and text.

    The document's name for it is ``LumiereModel``, which is an alias.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LumiereConfig) -> None:
        super().__init__(config)
        self.model = LumiereBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As :meth:`LumiereBackbone.forward`; ``logits`` are (B, T, V).

        ``labels`` (B, T) are the input ids themselves, -100 where nothing is to be learned; the
        shift to next tokens happens here. ``loss`` is the mean in nats. ``logits_to_keep`` n
        computes the logits of the last n tokens only (0: all).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _asked(argument: bool | None, configured: bool | None) -> bool:
    return bool(configured if argument is None else argument)


LumiereConfig.register_for_auto_class()
LumiereBackbone.register_for_auto_class("AutoModel")
LumiereForCausalLM.register_for_auto_class("AutoModelForCausalLM")
