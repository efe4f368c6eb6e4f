"""Classifier-free guidance whose unconditional text can outgrow the context too."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, UnbatchedClassifierFreeGuidanceLogitsProcessor

from .truncation import remembered


class GuidanceWithinContext(UnbatchedClassifierFreeGuidanceLogitsProcessor):
    """As in transformers, where the unconditional text grows token by token, with a cache.

    Here it is truncated like the text with the prompt. If it is not the previous text plus one
    token, because beams were reordered or candidates rejected, it is encoded again.
    """

    def __init__(self, plain: UnbatchedClassifierFreeGuidanceLogitsProcessor) -> None:
        given = plain.unconditional_context
        super().__init__(
            plain.guidance_scale,
            plain.model,
            given["input_ids"],
            given["attention_mask"],
            given["use_cache"],
        )
        self._prompted: int | None = None  # length of the input at the first call
        self._ids: Tensor | None = None
        self._mask: Tensor | None = None
        self._cache: Cache | None = None

    def get_unconditional_logits(self, input_ids: Tensor) -> Tensor:
        """(B, 1, V) for the texts (B, S) so far."""
        if self._prompted is None:
            self._begin(input_ids)
        made = input_ids[:, self._prompted :]
        before = self.unconditional_context
        ids = torch.cat([before["input_ids"], made], dim=1)
        context = self.model.config.max_position_embeddings
        mask = remembered(before["attention_mask"], made.shape[1], context)
        goes_on = self._cache is not None and _one_more(self._ids, ids, self._mask, mask)
        inputs: dict[str, Any] = self.model.prepare_inputs_for_generation(
            ids,
            next_sequence_length=1 if goes_on else None,
            past_key_values=self._cache if goes_on else None,
            attention_mask=mask,
            use_cache=before["use_cache"],
            logits_to_keep=1,
        )
        output = self.model(**inputs)
        self._ids, self._mask, self._cache = ids, mask, output.past_key_values
        return output.logits

    def _begin(self, input_ids: Tensor) -> None:
        """Without a negative prompt, the unconditional text is the last token of the prompt."""
        if not input_ids.shape[1] and self.unconditional_context["input_ids"] is None:
            raise ValueError(
                "guidance_scale needs a prompt of input_ids: give them instead of inputs_embeds, "
                "or negative_prompt_ids"
            )
        self._prompted = input_ids.shape[1]
        before = self.unconditional_context
        ids, mask = before["input_ids"], before["attention_mask"]
        ids = input_ids[:, -1:] if ids is None else ids
        mask = torch.ones_like(ids) if mask is None else mask.long()
        copies = max(1, len(input_ids) // len(ids))  # beams, or several texts per prompt
        before["input_ids"] = ids.repeat_interleave(copies, dim=0)
        before["attention_mask"] = mask.repeat_interleave(copies, dim=0)


def _one_more(known: Any, ids: Tensor, seen: Any, mask: Tensor) -> bool:
    """Whether ``ids`` and ``mask`` are the known ones plus one column."""
    return torch.equal(known, ids[:, :-1]) and torch.equal(seen, mask[:, :-1])
