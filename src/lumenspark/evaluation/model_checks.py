"""Checks before a model is scored: usable context length, and causality."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lumenspark.errors import UserError, first_line, reading
from lumenspark.models.decoder import LanguageModelMixin

# Names of the maximum sequence length in configs.
CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "context_length",
    "max_target_positions",
)
# Upper limit of the default context length.
LONGEST_DEFAULT_CONTEXT = 1024
BRIEF = 16  # tokens of a random text
SHORT = 8  # tokens of the second, short text of the causality check
PLACES, PLACES_IN_LONG = 9, 3  # positions after which tokens are changed
LONG = 4096  # tokens
LONGEST_TRIED = 8192  # tokens; learned position tables are shorter
# Tolerance for rounding, relative to the largest logit. Differences are nearly always zero, since
# only ids differ between passes; 1e-6 occurs in mixtures of experts.
NOISE = 1e-4
SHORT_TYPES = (torch.float16, torch.bfloat16)


def context_limit(model: Any) -> int | None:
    """The maximum sequence length in the config; None if it has none."""
    config = model.config.get_text_config()
    for name in CONTEXT_NAMES:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def default_context(model: Any) -> int:
    """The model's maximum context length, at most 1024. Raises as :func:`usable_context`."""
    limit = context_limit(model)
    longest = LONGEST_DEFAULT_CONTEXT
    return usable_context(model, longest if limit is None else min(limit, longest))


def usable_context(model: Any, wanted: int) -> int:
    """The longest context up to ``wanted`` tokens on which the model runs.

    Configs may name more positions than are usable (RoBERTa: 512 of 514, since positions start
    after padding), so up to 8,192 tokens are tried by bisection. Raises UserError for a model that
    does not run on token ids, and for too little memory.
    """
    if wanted > LONGEST_TRIED:
        return wanted
    works, fails, reason = 0, wanted + 1, ""
    length = wanted
    while fails - works > 1:
        problem = _problem(model, length)
        if problem is None:
            works = length
        else:
            fails, reason = length, problem
        length = (works + fails) // 2
    if works == 0:
        raise UserError(
            f"the model does not run on token ids alone ({reason}): use a causal language model "
            "(AutoModelForCausalLM)"
        )
    return works


def check_causal(model: Any, ids: np.ndarray, length: int) -> None:
    """Raise UserError if logits depend on later tokens.

    For several positions of a text of ``length`` tokens from ``ids``, and of a short one, all later
    tokens are changed; a causal model's logits up to the position stay the same up to rounding.
    Changes in float16 or bfloat16 are verified in float32.
    """
    for tokens in {min(length, len(ids)), min(SHORT, length, len(ids))} - {0, 1}:
        text = np.asarray(ids[:tokens], np.int64)
        rows = _changed_rows(model, text, ids)
        with reading("the model's forward pass", f"choose a context below {tokens} tokens"):
            place = _noncausal_position(model, text, rows)
            if place is not None and model.dtype in SHORT_TYPES:
                with _in_float32(model):
                    place = _noncausal_position(model, text, rows)
        if place is not None:
            raise UserError(
                f"the model is not causal: its logits at position {place} of {tokens} depend on "
                "later tokens, so perplexity is undefined; use a causal language model, or "
                "configure this one as a decoder (is_decoder)"
            )


def check_causal_briefly(model: Any) -> None:
    """Run :func:`check_causal` on a few random tokens.

    Models of this package are causal by construction, so they are not run.
    """
    if isinstance(model, LanguageModelMixin):
        return
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = np.random.default_rng(0).integers(vocabulary, size=BRIEF)
    check_causal(model, ids, min(default_context(model), BRIEF))


def _changed_rows(model: Any, text: np.ndarray, ids: np.ndarray) -> dict[int, np.ndarray]:
    """By position, the text (T,) with all later tokens replaced."""
    known = _replacement_ids(model, ids)
    if len(known) < 2:
        return {}
    random = np.random.default_rng(0)
    index = np.searchsorted(known, text)
    rows = {}
    places = PLACES if len(text) <= LONG else PLACES_IN_LONG
    for place in np.unique(np.linspace(0, len(text) - 2, places).astype(int)).tolist():
        others = known[(index + random.integers(1, len(known), len(text))) % len(known)]
        rows[place] = np.where(np.arange(len(text)) > place, others, text)
    return rows


def _replacement_ids(model: Any, ids: np.ndarray) -> np.ndarray:
    """The distinct ids of the text, sorted; at least two where the vocabulary allows."""
    known = np.unique(ids).astype(np.int64)
    if len(known) > 1:
        return known
    taken = {int(known[0]), getattr(model.config, "pad_token_id", None)}
    entries = model.get_input_embeddings().weight.shape[0]
    other = next((token for token in range(entries) if token not in taken), None)
    return known if other is None else np.unique([*known, other])


def _noncausal_position(model: Any, text: np.ndarray, rows: dict[int, np.ndarray]) -> int | None:
    """A position whose logits depend on later tokens; None for a causal model."""
    with _evaluating(model):
        logits = _run(model, text)
        noise = (_run(model, text) - logits).abs().max()
        limit = torch.maximum(10 * noise, NOISE * logits.abs().max())
        for place, row in rows.items():
            moved = (_run(model, row) - logits)[: place + 1].abs().amax(-1)
            if (moved > limit).any():
                return int(moved.argmax())
    return None


def _problem(model: Any, length: int) -> str | None:
    """Why the model fails on ``length`` tokens; None if it runs."""
    pad = getattr(model.config, "pad_token_id", None)
    token = next(
        token for token in (0, 1) if token != pad
    )  # the padding token may have no position
    try:
        with _evaluating(model):
            _run(model, np.full(length, token))
    except UserError:
        raise
    except Exception as error:  # exception types vary by architecture
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error):
            raise UserError(
                f"not enough memory to run the model on {length} tokens: use a smaller context"
            ) from error
        return first_line(error)
    return None


def _run(model: Any, ids: np.ndarray) -> Tensor:
    """Float32 logits (T, V) of ids (T,), with a fixed random seed."""
    rows = torch.from_numpy(ids)[None].to(model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(), _IndicesInRange():
        torch.manual_seed(0)
        output = model(input_ids=rows, use_cache=False)
    logits = getattr(output, "logits", None)
    if logits is None or logits.shape[:-1] != rows.shape:
        raise UserError(
            f"a {type(model).__name__} does not predict next tokens: use a causal language model "
            "(AutoModelForCausalLM)"
        )
    return logits[0].float()


class _IndicesInRange(TorchDispatchMode):
    """Raise IndexError for an index outside a table.

    torch does so on the CPU; on a GPU a device assert would make the process unusable.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:
            _check_range(args[1], args[0].shape[0])
        elif func is torch.ops.aten.index_select.default:
            _check_range(args[2], args[0].shape[args[1]])
        elif func is torch.ops.aten.index.Tensor:
            for dimension, index in enumerate(args[1]):
                if index is not None and not index.dtype.is_floating_point:
                    _check_range(index, args[0].shape[dimension])
        return func(*args, **(kwargs or {}))


def _check_range(index: Tensor, entries: int) -> None:
    if index.dtype != torch.bool and index.numel() and int(index.max()) >= entries:
        raise IndexError(f"index {int(index.max())} is out of range in a table of {entries}")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Cast float16 and bfloat16 parameters to float32 inside the block."""
    short = {p: p.dtype for p in model.parameters() if p.dtype in SHORT_TYPES}
    for parameter in short:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in short.items():
            parameter.data = parameter.data.to(dtype)
