"""Sequence classification or regression from the hidden state of the last token."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple


class SequenceClassificationMixin:
    """The forward pass of a classifier. Subclasses create ``model`` and ``score``."""

    config: PreTrainedConfig
    loss_function: Callable[..., Tensor]
    model: nn.Module
    score: nn.Linear

    # The loss is a mean over texts: Trainer has to divide it by its accumulation steps.
    accepts_loss_kwargs = False

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
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """As :meth:`DecoderMixin.forward`; ``logits`` are (B, ``config.num_labels``).

        A row's last token is the last one with 1 in ``attention_mask`` (B, T), or without a mask
        the last one other than ``config.pad_token_id``.
        ``labels`` are classes (B,), multiple labels (B, ``num_labels``) or numbers (B,), according
        to ``config.problem_type``; if that is None, by their dtype and ``num_labels``.
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
        )
        hidden = outputs.last_hidden_state
        last = last_tokens(hidden, input_ids, attention_mask, self.config.pad_token_id)
        logits = self.score(hidden[torch.arange(len(hidden), device=hidden.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def last_tokens(
    hidden: Tensor, input_ids: Tensor | None, mask: Tensor | None, pad_token_id: int | None
) -> Tensor:
    """The column (B,) of each row's last token in ``hidden`` (B, T, E)."""
    length = hidden.shape[1]
    columns = torch.arange(length, device=hidden.device)
    if mask is not None and mask.ndim == 2:
        present = mask[:, -length:] != 0
    elif input_ids is not None and pad_token_id is not None:
        present = input_ids != pad_token_id
    else:
        return columns[-1].expand(len(hidden))
    return (columns * present).argmax(dim=1)
