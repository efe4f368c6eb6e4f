"""Text generation, within and past the context length.

Learned positions end at the context length. Generation continues past it: when a row of a batch is
full, its newest half is encoded again from position 0 and the rest is dropped. A dropped token is
treated like left padding: its entry in the attention mask becomes 0.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Cache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.candidate_generator import CandidateGenerator
from transformers.generation.stopping_criteria import MaxLengthCriteria, StoppingCriteriaList

from .continuation import encode_prompts, generate_texts, padding_id
from .guidance import GuidanceWithinContext
from .sampling import SAMPLING_ARGUMENTS, check_settings
from .truncation import (
    empty_cache,
    first_column,
    keep_newest_half,
    positions_from_mask,
)

NOT_CONTINUOUS = (
    "these models cannot generate in continuous batches (their positions are learned, and their "
    "caches are not paged): omit cache_implementation='paged', or call generate() with a batch"
)


class TextGenerationMixin(GenerationMixin):
    """Transformers' ``generate``, with ``text=`` and without a limit at the context length.

    The model's config must have ``max_position_embeddings``.
    """

    def generate(
        self,
        inputs: Tensor | str | list[str] | None = None,
        *args: Any,
        text: str | list[str] | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """``generate("…")``: prompt and continuation as a string (a list for a list).

        ``text="…"`` is the same by name. The tokenizer is ``tokenizer``, or the one saved beside
        the weights. Samples if one of ``temperature, top_k, top_p, min_p, typical_p`` is given,
        unless ``do_sample`` is set; ``num_return_sequences`` above 1 returns a list, grouped by
        prompt. With ``return_dict_in_generate`` the output is that of transformers, with the texts
        as ``text``. With token ids (B, T) this is ``GenerationMixin.generate``. In both,
        ``temperature=0`` is greedy decoding.

        Raises ValueError if there is no tokenizer, if the text is not a string or has no tokens,
        and for invalid settings.
        """
        if kwargs.get("cache_implementation") == "paged":
            raise ValueError(NOT_CONTINUOUS)
        ids = inputs if isinstance(inputs, Tensor) else None
        if text is None:
            text = _text_of(inputs)
        elif inputs is not ids:
            raise ValueError("give either text or inputs, not both")
        if text is None:
            return super().generate(ids, *args, tokenizer=tokenizer, **kwargs)
        for name in ("input_ids", "inputs_embeds", "attention_mask"):
            if kwargs.get(name) is not None or ids is not None:
                raise ValueError(f"give either text or {name}, not both")
        prompts = [text] if isinstance(text, str) else _listed(text)
        tokenizer = tokenizer if tokenizer is not None else self._own_tokenizer()
        output, texts = self._generate_texts(prompts, tokenizer, *args, **kwargs)
        result = texts[0] if isinstance(text, str) and len(texts) == 1 else texts
        if isinstance(output, Tensor):
            return result
        output["text"] = result
        return output

    def _generate_texts(
        self, prompts: list[str], tokenizer: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, list[str]]:
        """The output of transformers' ``generate``, and its rows as prompts with continuations."""
        encoded = encode_prompts(tokenizer, prompts, self.device)
        if any(kwargs.get(name) is not None for name in SAMPLING_ARGUMENTS):
            kwargs.setdefault("do_sample", True)
        configs = (args[0] if args else kwargs.get("generation_config"), self.generation_config)
        if _setting("pad_token_id", kwargs, configs) is None:
            kwargs["pad_token_id"] = padding_id(tokenizer)
        end_ids = _setting("eos_token_id", kwargs, configs)
        generate = partial(super().generate, tokenizer=tokenizer)
        return generate_texts(generate, tokenizer, encoded, *args, end_ids=end_ids, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError: failures in transformers would appear as short texts."""
        raise ValueError(NOT_CONTINUOUS)

    def _own_tokenizer(self) -> Any:
        """The tokenizer in the folder or hub repository of the weights."""
        if getattr(self, "_tokenizer_beside_weights", None) is None:
            if not self.name_or_path:
                raise ValueError(
                    "generate() of a text needs a tokenizer: this model was not loaded from a "
                    "folder, so pass tokenizer="
                )
            try:
                # Given a config, transformers does not ask to run the code in the folder.
                self._tokenizer_beside_weights = AutoTokenizer.from_pretrained(
                    self.name_or_path, config=self.config, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(
                    "generate() of a text needs a tokenizer: none was found in "
                    f"{self.name_or_path!r}, so pass tokenizer="
                ) from error
            except Exception as error:  # the files can have any content
                raise ValueError(
                    "generate() of a text needs a tokenizer: the one in "
                    f"{self.name_or_path!r} cannot be read, so pass tokenizer="
                ) from error
        return self._tokenizer_beside_weights

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """As in transformers, but a temperature of 0 means greedy decoding.

        Raises ValueError for invalid settings.
        """
        if kwargs.get("temperature") == 0:
            kwargs = {name: kwargs[name] for name in kwargs if name not in SAMPLING_ARGUMENTS}
            kwargs["do_sample"] = False
        config, others = super()._prepare_generation_config(generation_config, **kwargs)
        if config.temperature == 0:
            config.do_sample, config.temperature = False, None
        check_settings(config, self.config.num_hidden_layers)
        return config, others

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """As in transformers, with guidance that works past the context."""
        processors = super()._get_logits_processor(*args, **kwargs)
        for index, processor in enumerate(processors):
            if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor):
                processors[index] = GuidanceWithinContext(processor)
        return processors

    def _get_candidate_generator(
        self, *args: Any, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> CandidateGenerator:
        """As in transformers, with candidates limited to the space left in the context.

        A full row is truncated before drafting, by its accepted tokens alone, so that candidates do
        not change the text.
        """
        generator = super()._get_candidate_generator(*args, model_kwargs=model_kwargs, **kwargs)
        propose = generator.get_candidates

        def get_candidates(input_ids: Tensor, **given: Any) -> tuple[Tensor, Tensor | None]:
            room = self._make_room(model_kwargs, input_ids)
            layers = self.config.num_hidden_layers
            try:
                ids, logits = propose(input_ids, **given)
            finally:
                self.config.num_hidden_layers = layers  # a failed early exit leaves a lower one
            ids = ids[:, : input_ids.shape[1] + room]
            guesses = ids.shape[1] - input_ids.shape[1]
            return ids, logits[:, :guesses] if logits is not None and guesses else None

        generator.get_candidates = get_candidates
        return generator

    def _make_room(self, model_kwargs: dict[str, Any], ids: Tensor) -> int:
        """Truncate ``ids`` (1, S) if the context is full; returns the space left, in tokens."""
        context = self.config.max_position_embeddings
        mask = model_kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(ids)
        kept = keep_newest_half(mask, context)
        if kept is not mask:
            model_kwargs["attention_mask"] = kept
            empty_cache(model_kwargs["past_key_values"])
        return context - int(kept.sum())

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        """As in transformers, without the warning about exceeding the context length."""
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for criterion in criteria:
            if isinstance(criterion, MaxLengthCriteria):
                criterion.max_position_embeddings = None
        return criteria

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, **kwargs: Any
    ) -> GenerationConfig:
        """As in transformers, whose default of 20 new tokens would stop at the context length."""
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
        """The model inputs of each step, with full rows truncated."""
        if inputs_embeds is None:
            _check_tokens(input_ids, attention_mask)
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        fed = next_sequence_length or input_ids.shape[1]
        mask = attention_mask
        if mask is None:  # transformers omits it when nothing is padded
            mask = input_ids.new_ones(len(input_ids), max(input_ids.shape[1], past + fed))
        context = self.config.max_position_embeddings
        counted = attention_mask if attention_mask is not None else kwargs.get("position_ids")
        if past and past + fed > context and counted is not None:
            _check_all_is_text(counted.shape[-1], past + fed, context)
        kept = keep_newest_half(mask, context)
        if kept is not mask and inputs_embeds is not None:
            raise ValueError(
                f"a prompt given as inputs_embeds cannot go past the context length {context}: "
                "give input_ids"
            )
        if kept is not mask and past:
            # A row was truncated and its positions changed: all rows are encoded again.
            empty_cache(past_key_values)
            past = 0
            _check_all_is_text(input_ids.shape[1], kept.shape[1] - first_column(kept), context)
        if past == 0:
            fed = kept.shape[1] - first_column(kept)
        counts_itself = attention_mask is None and kept is mask and "position_ids" in kwargs
        kept = kept[:, -(past + fed) :]
        if not counts_itself:  # peft shifts those of transformers past its learned prefix
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
        """Tokens dropped at this step stay dropped at the next."""
        mask = model_kwargs.get("attention_mask")
        if mask is None:
            length = model_kwargs["position_ids"].shape[-1]
            mask = outputs.logits.new_ones(len(outputs.logits), length, dtype=torch.long)
        kept = keep_newest_half(mask, self.config.max_position_embeddings)
        if kept is not mask:
            model_kwargs["attention_mask"] = kept
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)


def _text_of(inputs: Any) -> Any:
    """The first argument of ``generate`` as text; None for token ids.

    Raises ValueError for the output of a tokenizer.
    """
    if isinstance(inputs, Mapping):
        raise ValueError(
            f"the first argument is a {type(inputs).__name__}: write generate(**inputs)"
        )
    return None if isinstance(inputs, Tensor) else inputs


def _listed(texts: Any) -> list[str]:
    """Raises ValueError for a value that is not a list of prompts, such as numbers and bytes."""
    if isinstance(texts, bytes | bytearray) or not hasattr(texts, "__iter__"):
        raise ValueError(
            f"a prompt is a {type(texts).__name__}: it must be a string, or a list of them"
        )
    return list(texts)


def _check_tokens(ids: Tensor, mask: Tensor | None) -> None:
    """Raises ValueError if there is no token to continue from, or the mask is too short."""
    if not ids.shape[1]:
        raise ValueError("a prompt has no tokens: give at least one")
    if mask is not None and mask.shape[1] < ids.shape[1]:
        raise ValueError(
            f"the attention mask has {mask.shape[1]} columns for {ids.shape[1]} tokens: it must "
            "have one for each"
        )


def _check_all_is_text(text: int, known: int, context: int) -> None:
    """Raise ValueError if ``known`` tokens must be truncated, but only ``text`` are given."""
    if known > text:
        raise ValueError(
            "tokens that are only in the cache cannot be moved beyond the context length "
            f"{context}: give all input_ids, and no prefill_chunk_size; of a prompt or prefix that "
            "was learned (peft), ask for fewer new tokens"
        )


def _setting(name: str, kwargs: dict[str, Any], configs: tuple[Any, ...]) -> Any:
    """The value transformers uses: the argument, else that of the first config with one."""
    if name in kwargs:
        return kwargs[name]
    values = (getattr(config, name, None) for config in configs)
    return next((value for value in values if value is not None), None)
