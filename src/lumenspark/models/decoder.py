"""The forward passes that the families share: token ids to hidden states, to logits and loss.

A family defines its blocks, cache and mask; embeddings, positions, the collection of hidden states
and the loss are here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .fused_cross_entropy import (
    IGNORED,
    cross_entropy,
    fused_linear_cross_entropy,
    is_plain_linear,
    mean_loss,
    shifted,
    soft_targets,
)
from .packing import (
    FLASH_ARGUMENTS,
    check_mask,
    is_packed,
    read_positions,
    same_text,
    traced,
)
from .tensor_names import Shape, tensor_names
from .truncation import check_length, positions_from_mask


class DecoderMixin:
    """The forward pass of a backbone: token ids to the last hidden states.

    Subclasses create ``embed_tokens``, ``embed_positions``, ``layers`` and ``norm``.
    A block maps (hidden, attention_mask, past_key_values, output_attentions) to (hidden, weights).
    """

    config: PreTrainedConfig
    training: bool
    embed_tokens: nn.Embedding
    embed_positions: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module

    def new_cache(self) -> Cache:
        """An empty cache."""
        return DynamicCache(config=self.config)

    def attention_mask(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None,
    ) -> Any:
        """The caller's mask in the form that the blocks expect: here, for dense causal attention.

        ``past_key_values`` is the caller's cache. Packed texts do not attend to each other;
        without a
        mask transformers takes care of that.
        """
        masked = attention_mask is not None and past_key_values is None
        packed = masked and is_packed(position_ids, attention_mask, in_a_graph=True)
        return create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            and_mask_function=same_text(position_ids, attention_mask) if packed else None,
        )

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

        Without ``position_ids`` (B, T) positions count a row's tokens, without pads (0 in the
        mask). If positions restart, a new text starts, which does not attend to earlier texts
        in its row; packed rows have no cache.
        ``hidden_states`` holds the embeddings, then each block's output, the last one normalised;
        ``attentions`` holds each block's weights (B, H, T, S).

        Raises ValueError for a row longer than the context, for packed rows with a cache, and for
        invalid positions and masks.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        keep_cache = self.config.use_cache if use_cache is None else use_cache
        if self.training:
            keep_cache = False
        rows, length = inputs_embeds.shape[:2]
        position_ids = read_positions(position_ids, kwargs, rows, length)
        check_mask(attention_mask, length)
        packed = is_packed(position_ids, attention_mask)
        if packed and (past_key_values is not None or (use_cache and keep_cache)):
            raise ValueError(
                "position_ids restart within a row, and several texts in a row have no cache: "
                "put each text in its own row, or pass use_cache=False"
            )
        own_cache = past_key_values
        if keep_cache and past_key_values is None and not packed:
            past_key_values = self.new_cache()
        with_attentions = _asked(output_attentions, self.config.output_attentions)
        with_states = _asked(output_hidden_states, self.config.output_hidden_states)

        mask = self.attention_mask(inputs_embeds, attention_mask, own_cache, position_ids)
        hidden = inputs_embeds + self._positions(
            inputs_embeds, attention_mask, position_ids, past_key_values
        )
        hidden = functional.dropout(hidden, self.config.dropout, self.training)
        states, attentions = [hidden], []
        # By the number in the config, which transformers lowers for early exit.
        for block in self.layers[: self.config.num_hidden_layers]:
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
        """The position embeddings (1 or B, T, E) of the new tokens."""
        length = inputs_embeds.shape[1]
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        context = self.config.max_position_embeddings
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            if attention_mask.shape[1] < past + length:
                raise ValueError(
                    f"the attention mask has {attention_mask.shape[1]} columns for {past + length} "
                    "tokens: it must cover the cached ones too"
                )
            position_ids = positions_from_mask(attention_mask)[:, -length:]
        if position_ids is None:
            check_length(past + length, context)
            position_ids = torch.arange(length, device=inputs_embeds.device)[None] + past
        elif not traced() and (length > 1 or past + length > context):
            # Padded rows can have fewer tokens than columns: check their positions.
            lowest, highest = position_ids.aminmax()
            check_length(int(highest) + 1, context)
            if lowest < 0:
                raise ValueError(f"a position is {int(lowest)}: positions count from 0")
        return self.embed_positions(position_ids)


class LanguageModelMixin:
    """The forward pass of a language model: token ids to next-token logits and loss.

    Subclasses create ``model``, the backbone, and ``lm_head``. (Text generation is a separate base:
    transformers looks for its name among a class's direct bases.)
    """

    config: PreTrainedConfig
    training: bool
    model: nn.Module
    lm_head: nn.Linear

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
        targets: Tensor | None = None,
        teacher_samples: Tensor | None = None,
        teacher_weight: float = 0.0,
        num_items_in_batch: int | Tensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As :meth:`DecoderMixin.forward`; ``logits`` are (B, T, V).

        Args:
            labels: (B, T) the input ids themselves, -100 for positions without a target; they
                are shifted to next tokens here.
            targets: (B, T) the next tokens themselves, -100 likewise, instead of ``labels``.
            teacher_samples: (B, T, S) samples of teachers' predictions of the same tokens, which
                take ``teacher_weight`` of the loss.
            num_items_in_batch: divides the sum of the losses, for gradient accumulation; without
                it ``loss`` is their mean, in nats.
            skip_logits: compute the loss by the fused output layer, which is faster and needs less
                memory, and return no logits. Default: in training, if there are labels.
            logits_to_keep: n for the logits of the last n tokens only; 0: all.
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
            return_dict=True,  # overrides the config
            **{name: kwargs[name] for name in FLASH_ARGUMENTS if name in kwargs},
        )
        hidden, logits, loss = outputs.last_hidden_state, None, None
        if targets is None:
            targets = kwargs.get("shift_labels")  # transformers' name
        if targets is None and labels is not None:
            targets = shifted(labels)
        if targets is not None and "ignore_index" in kwargs:
            targets = targets.masked_fill(targets == kwargs["ignore_index"], IGNORED)
        if skip_logits is None:
            skip_logits = self.training
        if targets is None:
            logits = self.lm_head(_last(hidden, logits_to_keep))
        elif not (skip_logits and is_plain_linear(self.lm_head)):
            logits = self.lm_head(hidden)
        if targets is not None:
            soft = soft_targets(targets.to(hidden.device), teacher_samples, teacher_weight)
            if logits is None:
                weight = self.lm_head.weight
                losses = fused_linear_cross_entropy(hidden.flatten(0, 1), weight, *soft)
            else:
                losses = cross_entropy(logits.flatten(0, 1).float(), *soft)
                logits = _last(logits, logits_to_keep)
            loss = mean_loss(losses, targets, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def inspect_names(self) -> dict[str, Shape]:
        """Names and shapes of all tensors that ``lumenspark.trace`` can return, in forward order.

        ``B`` rows, ``T`` new tokens, ``S`` tokens including cached ones.
        """
        return tensor_names(self.config.tensor_sizes)


def _last(tensor: Tensor, tokens: int | Tensor) -> Tensor:
    """Of (B, T, …) the last ``tokens`` (0: all), or those at the indices in it."""
    return tensor[:, slice(-tokens, None) if isinstance(tokens, int) else tokens]


def _asked(argument: bool | None, configured: bool | None) -> bool:
    return bool(configured if argument is None else argument)
