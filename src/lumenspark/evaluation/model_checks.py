"""Whether a model can be scored: how many tokens it takes, and whether it sees what it predicts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lumenspark.errors import UserError, first_line, reading

# A config gives the longest text that its model takes under one of these names.
CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "context_length",
    "max_target_positions",
)
# The default context of models that take longer texts than this, or texts of any length.
LONGEST_DEFAULT_CONTEXT = 1024
BRIEF = 16  # tokens of an arbitrary text
SHORT = 8  # tokens of the second, short text on which causality is tried
PLACES, PLACES_IN_LONG = 9, 3  # positions of a text after which tokens are changed
LONG = 4096  # tokens
LONGEST_TRIED = 8192  # tokens; learned tables of positions are shorter
# How far logits may move by rounding alone, as a share of the largest one: nearly always not at
# all, since only ids differ between two passes, and 1e-6 where experts share out the tokens.
NOISE = 1e-4
SHORT_TYPES = (torch.float16, torch.bfloat16)


def context_limit(model: Any) -> int | None:
    """The longest text in tokens that the config names; None where it names no limit."""
    config = model.config.get_text_config()
    for name in CONTEXT_NAMES:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def default_context(model: Any) -> int:
    """As many tokens as the model takes, but at most 1024. Raises as :func:`usable_context`."""
    limit = context_limit(model)
    longest = LONGEST_DEFAULT_CONTEXT
    return usable_context(model, longest if limit is None else min(limit, longest))


def usable_context(model: Any, wanted: int) -> int:
    """The longest context up to ``wanted`` tokens that the model can be run on.

    A config may name more positions than there are to use: RoBERTa counts from the padding's
    position on, so it takes 512 of its 514. So it is tried, up to 8,192 tokens. Raises UserError
    where the model runs on no text at all, and where there is no memory for ``wanted`` tokens.
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
            f"the model cannot be run on token ids alone ({reason}): name a causal language model "
            "(AutoModelForCausalLM)"
        )
    return works


def check_causal(model: Any, ids: np.ndarray, length: int) -> None:
    """Raise UserError where the model sees the token that it is to predict.

    A text of ``length`` tokens from ``ids``, and a short one, are read again with all tokens after
    a position changed, for several positions. Up to there a causal model's logits stay, but for
    rounding. Where those of a short type move, float32 says whether that is rounding.
    """
    for tokens in {min(length, len(ids)), min(SHORT, length, len(ids))} - {0, 1}:
        text = np.asarray(ids[:tokens], np.int64)
        rows = _changed_rows(model, text, ids)
        with reading("the model's forward pass", f"choose a context below {tokens} tokens"):
            place = _place_that_sees_ahead(model, text, rows)
            if place is not None and model.dtype in SHORT_TYPES:
                with _in_float32(model):
                    place = _place_that_sees_ahead(model, text, rows)
        if place is not None:
            raise UserError(
                f"the model is not causal: what it predicts at position {place} of {tokens} "
                "changes with the tokens after it, so its figures would mean nothing; name a "
                "causal language model, or configure this one as a decoder (is_decoder)"
            )


def check_causal_briefly(model: Any) -> None:
    """:func:`check_causal` on a few arbitrary tokens, for a model that is not scored."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = np.random.default_rng(0).integers(vocabulary, size=BRIEF)
    check_causal(model, ids, min(default_context(model), BRIEF))


def _changed_rows(model: Any, text: np.ndarray, ids: np.ndarray) -> dict[int, np.ndarray]:
    """By position, the text (T,) with other tokens after it."""
    known = _ids_to_put(model, ids)
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


def _ids_to_put(model: Any, ids: np.ndarray) -> np.ndarray:
    """The ids of the text, sorted; where it has a single one, another of the vocabulary too."""
    known = np.unique(ids).astype(np.int64)
    if len(known) > 1:
        return known
    taken = {int(known[0]), getattr(model.config, "pad_token_id", None)}
    entries = model.get_input_embeddings().weight.shape[0]
    other = next((token for token in range(entries) if token not in taken), None)
    return known if other is None else np.unique([*known, other])


def _place_that_sees_ahead(model: Any, text: np.ndarray, rows: dict[int, np.ndarray]) -> int | None:
    """A position whose logits depend on later tokens; None where there is none."""
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
    """Why the model cannot be run on ``length`` tokens; None where it can."""
    pad = getattr(model.config, "pad_token_id", None)
    token = next(token for token in (0, 1) if token != pad)  # padding may have no position
    try:
        with _evaluating(model):
            _run(model, np.full(length, token))
    except UserError:
        raise
    except Exception as error:  # each architecture has its own way to say it
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error):
            raise UserError(
                f"there is no memory to run the model on {length} tokens: choose a smaller context"
            ) from error
        return first_line(error)
    return None


def _run(model: Any, ids: np.ndarray) -> Tensor:
    """Float32 logits (T, V) of ids (T,). What a model draws at random is the same each time."""
    rows = torch.from_numpy(ids)[None].to(model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(), _IndicesInRange():
        torch.manual_seed(0)
        output = model(input_ids=rows, use_cache=False)
    logits = getattr(output, "logits", None)
    if logits is None or logits.shape[:-1] != rows.shape:
        raise UserError(
            f"a {type(model).__name__} predicts no next tokens: name a causal language model "
            "(AutoModelForCausalLM)"
        )
    return logits[0].float()


class _IndicesInRange(TorchDispatchMode):
    """An IndexError where a table is asked for an entry that it has not got.

    On a processor torch raises it too. A graphics card stops the process, and all that follows.
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
    """Inside, parameters of a short type are float32, which changes none of them."""
    short = {p: p.dtype for p in model.parameters() if p.dtype in SHORT_TYPES}
    for parameter in short:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in short.items():
            parameter.data = parameter.data.to(dtype)
