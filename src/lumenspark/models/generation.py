"""Text in, text out, and what happens when a text outgrows the context.

Learned positions end at the context length C. Generation goes on past it: when a row of a batch
is full, its newest half is encoded again from position 0 and the rest is forgotten. A forgotten
token is treated as left padding is: its place in the attention mask becomes 0.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Cache, GenerationConfig, GenerationMixin
from transformers.generation.stopping_criteria import MaxLengthCriteria, StoppingCriteriaList

SAMPLING_ARGUMENTS = ("temperature", "top_k", "top_p", "min_p", "typical_p")


class TextGenerationMixin(GenerationMixin):
    """Transformers' ``generate``, with ``text=`` and without an end at the context length.

    The model's config must give ``max_position_embeddings``.
    """

    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        text: str | list[str] | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """``generate(text="…")``: prompt and continuation as a string (a list for a list).

        Takes the tokenizer saved beside the weights, or ``tokenizer``. Samples when one of
        ``temperature, top_k, top_p, min_p, typical_p`` is given, unless ``do_sample`` says
        otherwise; ``num_return_sequences`` over 1 gives a list, each prompt's texts together.
        Without ``text`` this is ``GenerationMixin.generate``, unchanged.

        Raises ValueError where no tokenizer is found or the text is empty of tokens.
        """
        if text is None:
            return super().generate(inputs, *args, tokenizer=tokenizer, **kwargs)
        if inputs is not None or kwargs.get("input_ids") is not None:
            raise ValueError("give either text or input_ids")
        tokenizer = tokenizer if tokenizer is not None else self._own_tokenizer()
        prompts = [text] if isinstance(text, str) else list(text)
        ids, mask = (tensor.to(self.device) for tensor in encode_padded(tokenizer, prompts))
        if any(kwargs.get(name) is not None for name in SAMPLING_ARGUMENTS):
            kwargs.setdefault("do_sample", True)
        kwargs.setdefault("pad_token_id", padding_id(tokenizer))
        output = super().generate(ids, attention_mask=mask, tokenizer=tokenizer, **kwargs)
        rows = output if isinstance(output, Tensor) else output.sequences
        copies = len(rows) // len(prompts)
        texts = [
            prompts[index // copies] + _continuation(tokenizer, row.tolist(), ids.shape[1])
            for index, row in enumerate(rows)
        ]
        return texts[0] if isinstance(text, str) and copies == 1 else texts

    def _own_tokenizer(self) -> Any:
        """The tokenizer in the folder (or at the hub id) that the weights came from."""
        if getattr(self, "_tokenizer_beside_weights", None) is None:
            if not self.name_or_path:
                raise ValueError(
                    "generate(text=…) needs a tokenizer: this model was not loaded from a folder, "
                    "so pass tokenizer="
                )
            try:
                # With the config at hand, transformers does not ask about the code that made it.
                self._tokenizer_beside_weights = AutoTokenizer.from_pretrained(
                    self.name_or_path, config=self.config
                )
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(
                    f"generate(text=…) needs a tokenizer: none was found in {self.name_or_path!r}, "
                    "so pass tokenizer="
                ) from error
        return self._tokenizer_beside_weights

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        """Transformers' own, without their warning that the context length may break things."""
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for criterion in criteria:
            if isinstance(criterion, MaxLengthCriteria):
                criterion.max_position_embeddings = None
        return criteria

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, **kwargs: Any
    ) -> GenerationConfig:
        """Transformers' own, whose default of 20 new tokens would end at the context length."""
        if has_default_max_length and generation_config.max_new_tokens is None:
            generation_config.max_new_tokens = generation_config.max_length
        return super()._prepare_generated_length(
            generation_config, has_default_max_length=has_default_max_length, **kwargs
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What transformers feeds to the model at each step; here with rows that are full cut."""
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        fed = next_sequence_length or input_ids.shape[1]
        mask = attention_mask
        if mask is None:  # transformers leaves it out where nothing is padded
            mask = input_ids.new_ones(len(input_ids), max(input_ids.shape[1], past + fed))
        context = self.config.max_position_embeddings
        kept = keep_newest_half(mask, context)
        if kept is not mask and inputs_embeds is not None:
            raise ValueError(
                f"a prompt given as inputs_embeds cannot go past the context length {context}: "
                "give input_ids"
            )
        if kept is not mask and past:
            # A row was cut and its positions have moved: every row's window is encoded again.
            empty_cache(past_key_values)
            past = 0
            if kept.shape[1] - first_column(kept) > input_ids.shape[1]:
                raise ValueError(
                    "tokens that are known by their cache alone cannot go past the context length "
                    f"{context}: give all input_ids, and no prefill_chunk_size"
                )
        if past == 0:
            fed = kept.shape[1] - first_column(kept)
        kept = kept[:, -(past + fed) :]
        kwargs["position_ids"] = positions_from_mask(kept)[:, -fed:]
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=fed,
            past_key_values=past_key_values,
            attention_mask=None if attention_mask is None else kept,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """What was forgotten at this step stays forgotten at the next."""
        mask = model_kwargs.get("attention_mask")
        if mask is None:
            length = model_kwargs["position_ids"].shape[-1]
            mask = outputs.logits.new_ones(len(outputs.logits), length, dtype=torch.long)
        kept = keep_newest_half(mask, self.config.max_position_embeddings)
        if kept is not mask:
            model_kwargs["attention_mask"] = kept
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)


def keep_newest_half(mask: Tensor, context: int) -> Tensor:
    """The mask (B, S) with rows of more than ``context`` tokens cut to their newest half.

    Returns ``mask`` itself where no row is too long.
    """
    if mask.shape[1] <= context:
        return mask
    too_long = mask.sum(dim=1, keepdim=True) > context
    if not too_long.any():
        return mask
    tokens_from_here = mask.flip(1).cumsum(1).flip(1)
    return mask * (~too_long | (tokens_from_here <= context // 2))


def positions_from_mask(mask: Tensor) -> Tensor:
    """Each token's position in its own row's text, (B, S); 0 at pads before it."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def first_column(mask: Tensor) -> int:
    """The first column in which any row of (B, S) has a token (the last where none has)."""
    columns = mask.any(dim=0).nonzero()
    return int(columns[0]) if len(columns) else mask.shape[1] - 1


def empty_cache(cache: Cache) -> None:
    """Forget every key and value, in caches that grow and in those of a fixed size."""
    cache.reset()
    if cache.get_seq_length():
        cache.crop(0)


def check_length(tokens: int, context: int) -> None:
    """Raises ValueError where ``tokens`` do not fit into ``context`` positions."""
    if tokens > context:
        raise ValueError(
            f"{tokens} tokens are longer than the context of {context}: cut the text into windows, "
            "or use generate(), which goes on past it"
        )


def encode_padded(tokenizer: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of the prompts, padded on the left: (B, T) each.

    Raises ValueError for a prompt without tokens.
    """
    # Too many tokens are cut or refused later; the tokenizer need not warn of them.
    rows = [tokenizer(prompt, verbose=False)["input_ids"] for prompt in prompts]
    if not rows or not all(rows):
        raise ValueError("a prompt has no tokens: give at least one word")
    width = max(map(len, rows))
    ids = [[padding_id(tokenizer)] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def padding_id(tokenizer: Any) -> int:
    """What fills the place of no token; masked, so any id will do where there is no pad token."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def _continuation(tokenizer: Any, row: list[int], start: int) -> str:
    """The text of ``row`` after its first ``start`` ids.

    Decoded together with the prompt and then cut, because some tokenizers decode a first word
    without the space before it.
    """
    prompt = tokenizer.decode(row[:start], skip_special_tokens=True)
    whole = tokenizer.decode(row, skip_special_tokens=True)
    return str(whole[len(prompt) :])
