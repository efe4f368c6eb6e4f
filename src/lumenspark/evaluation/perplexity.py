"""How well a causal language model predicts a text, by two protocols.

``strided`` (the default) reads the raw split as one stream and predicts every token exactly once.
``card`` is the protocol of the Lumiére model card: cleaned documents, short windows that overlap
by 8 tokens. Losses are in nats per token; only bits per byte compares across tokenizers.

Works for every causal language model and tokenizer of transformers.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lumenspark.data.corpora import Corpus, Piece, clean_articles
from lumenspark.data.documents import cut
from lumenspark.data.tokenizer import document_frame
from lumenspark.data.tokens import TokenSplit
from lumenspark.data.windows import card_windows, strided_windows
from lumenspark.errors import UserError
from lumenspark.evaluation.records import Evaluation

PROTOCOLS = ("strided", "card")
CARD_CONTEXT = 64
CARD_OVERLAP = 8
# The default context of models that take longer texts than this, or texts of any length.
LONGEST_DEFAULT_CONTEXT = 1024
# Logits of one forward pass: 32 MiB of float32, and as much again for their softmax. Batches of
# 2**20 to 2**25 logits are equally fast on a processor.
LOGITS_PER_BATCH = 2**23
# Beyond this exp(loss) is no float. A working model is below ln V, 13 at most.
LARGEST_LOSS = 700.0
# A config gives the longest text that its model takes under one of these names.
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")

# What a tokenizer is called with. verbose: no warning that the text is longer than the context.
AS_PLAIN_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}

Ids = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _TokenisedText:
    ids: Ids  # (tokens,)
    windows: np.ndarray  # int64 (W, 3): begin, first target, end
    bytes: int
    words: int
    documents: int | None


def evaluate(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    *,
    split: str = "test",
    protocol: str = "strided",
    context: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score ``model`` on a split of ``corpus``.

    ``model`` is any causal language model of transformers, ``tokenizer`` the one it was trained
    with. ``context`` is in tokens; without it, ``strided`` takes what the model takes, but at most
    1024, and ``card`` takes 64. ``stride`` (``strided`` only) is half the context unless given.
    ``progress`` is called with the targets scored so far and in all. Memory grows with the split's
    tokens, not with its text, of which only a piece is held at a time.

    Raises UserError where the model cannot take the context or the tokenizer's ids, where the
    split is too short, and where the loss is not finite.
    """
    started = time.monotonic()
    context, stride = _check_settings(protocol, context, stride, context_limit(model))
    if protocol == "strided":
        text = _as_stream(tokenizer, corpus.text_chunks(split), context, stride)
    else:
        pieces = clean_articles(corpus.pieces(split), corpus.layout, "drop")
        text = _as_documents(tokenizer, pieces, context)
    if len(text.windows) == 0:
        raise UserError(
            f"the {split} split of {corpus.name} has fewer than two tokens, so there is nothing to "
            "predict: choose another split or more text"
        )
    _check_vocabulary(model, int(text.ids.max()))
    nats, targets = _sum_nats(model, text.ids, text.windows, progress)
    loss = nats / targets
    if not loss < LARGEST_LOSS:
        raise UserError(
            f"the model's loss on {corpus.name} is {loss}, which is no prediction at all: its "
            "weights are damaged, or overflow in this dtype (try float32)"
        )
    clean = protocol == "strided"
    return Evaluation(
        protocol=protocol,
        data=corpus.name,
        split=split,
        layout=corpus.layout,
        data_digest=corpus.digest(),
        hub_id=corpus.hub_id,
        revision=corpus.revision,
        loss=loss,
        perplexity=math.exp(loss),
        word_perplexity=_word_perplexity(nats, text.words) if clean else None,
        bits_per_byte=nats / math.log(2) / text.bytes if clean and text.bytes else None,
        targets=targets,
        bytes=text.bytes,
        words=text.words,
        documents=text.documents,
        windows=len(text.windows),
        context=context,
        stride=stride,
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=round(time.monotonic() - started, 3),
    )


def card_loss(
    model: Any,
    tokens: TokenSplit,
    *,
    context: int = CARD_CONTEXT,
    overlap: int = CARD_OVERLAP,
    limit_windows: int | None = None,
) -> tuple[float, int]:
    """Mean cross-entropy in nats by the card's protocol, and the number of targets behind it.

    ``tokens`` are framed documents. ``limit_windows`` scores that many windows, evenly spaced
    over the split: enough for a look during training. An autocast that surrounds the call applies;
    close it before training goes on, because it remembers weights cast without gradients. A loss
    that is not finite is returned as it is. Give a compiled model's original, because the windows'
    lengths vary.

    Raises UserError where the split holds nothing to predict.
    """
    windows = _document_windows(tokens.offsets, context, overlap)
    if len(windows) == 0:
        raise UserError("this split has fewer than two tokens in each document: give it more text")
    if limit_windows is not None and limit_windows < len(windows):
        windows = windows[np.arange(limit_windows) * len(windows) // limit_windows]
    nats, targets = _sum_nats(model, tokens.ids, windows)
    return nats / targets, targets


def context_limit(model: Any) -> int | None:
    """The longest text in tokens that the model takes; None where its config names no limit."""
    config = model.config.get_text_config()
    for name in CONTEXT_NAMES:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def _check_settings(
    protocol: str, context: int | None, stride: int | None, limit: int | None
) -> tuple[int, int]:
    """Context and stride with their defaults filled in."""
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {protocol!r}: choose strided or card")
    if context is None:
        longest = LONGEST_DEFAULT_CONTEXT if protocol == "strided" else CARD_CONTEXT
        context = longest if limit is None else min(limit, longest)
    if limit is not None and context > limit:
        raise UserError(
            f"the model takes {limit} tokens, not {context}: choose a context up to {limit}"
        )
    if protocol == "card":
        if stride is not None:
            raise UserError(
                f"the card's protocol has a fixed overlap of {CARD_OVERLAP} tokens: leave out the "
                "stride, or choose the protocol strided"
            )
        return context, context - CARD_OVERLAP
    if context < 2:
        raise UserError(f"a context of {context} predicts nothing: choose 2 tokens or more")
    return context, context // 2 if stride is None else stride


def _check_vocabulary(model: Any, largest_id: int) -> None:
    entries = model.get_input_embeddings().weight.shape[0]
    if largest_id >= entries:
        raise UserError(
            f"the tokenizer gives id {largest_id}, but the model's vocabulary has {entries} "
            "entries: use the tokenizer that the model was trained with"
        )


def _word_perplexity(nats: float, words: int) -> float | None:
    if words == 0 or nats / words > LARGEST_LOSS:
        return None
    return math.exp(nats / words)


def _as_stream(tokenizer: Any, chunks: Iterable[str], context: int, stride: int) -> _TokenisedText:
    """The raw text as one stream after the beginning-of-text token, or the end token.

    A tokenizer with neither leaves the first token without a prediction. Then the bytes of the
    characters that it covers are not counted, nor the words that begin in it.
    """
    prefix = _first_given(tokenizer.bos_token_id, tokenizer.eos_token_id)
    parts = [_ids([] if prefix is None else [prefix])]
    size, skipped = _Size(), ""
    for piece in cut(chunks):
        part = _encode(tokenizer, piece.text)
        if piece.starts and prefix is None and len(part):
            skipped = piece.text[: _first_token_end(tokenizer, piece.text, int(part[0]))]
        parts.append(part)
        size.add(piece)
    ids = np.concatenate(parts)
    return _TokenisedText(
        ids=ids,
        windows=strided_windows(len(ids), context, stride),
        bytes=size.bytes - len(skipped.encode()),
        words=size.words - len(skipped.split()),
        documents=None,
    )


def _as_documents(tokenizer: Any, pieces: Iterable[Piece], context: int) -> _TokenisedText:
    """Each document in its frame (:func:`.document_frame`), in windows that never cross one."""
    before, after = map(_ids, document_frame(tokenizer))
    parts, offsets, length = [_ids([])], [0], 0
    size = _Size()
    for piece in pieces:
        part = _encode(tokenizer, piece.text)
        if piece.starts:
            part = np.concatenate([before, part])
        if piece.ends:
            part = np.concatenate([part, after])
        parts.append(part)
        length += len(part)
        size.add(piece)
        if piece.ends:
            offsets.append(length)
    return _TokenisedText(
        ids=np.concatenate(parts),
        windows=_document_windows(np.array(offsets, np.int64), context, CARD_OVERLAP),
        bytes=size.bytes,
        words=size.words,
        documents=len(offsets) - 1,
    )


class _Size:
    """UTF-8 bytes and words (``text.split()``) of texts that come in pieces."""

    def __init__(self) -> None:
        self.bytes = 0
        self.words = 0
        self._ended_in_word = False

    def add(self, piece: Piece) -> None:
        # A piece of a text without whitespace may end inside a word, which is counted once.
        goes_on = self._ended_in_word and not piece.starts and not piece.text[0].isspace()
        self.bytes += len(piece.text.encode())
        self.words += len(piece.text.split()) - goes_on
        self._ended_in_word = not piece.text[-1].isspace()


def _encode(tokenizer: Any, text: str) -> Ids:
    """The ids of ``text``, in which ``<|eot|>`` is seven characters and no special token.

    That is how the text is read for training, too.
    """
    return _ids(tokenizer(text, **AS_PLAIN_TEXT)["input_ids"])


def _ids(ids: list[int]) -> Ids:
    return np.array(ids, np.int32)


def _first_given(*token_ids: int | None) -> int | None:
    return next((token_id for token_id in token_ids if token_id is not None), None)


def _first_token_end(tokenizer: Any, text: str, first_id: int) -> int:
    """How many characters at the start of ``text`` the first token covers."""
    if not tokenizer.is_fast:
        return len(tokenizer.decode([first_id]))
    encoding = tokenizer(text, **AS_PLAIN_TEXT, return_offsets_mapping=True)
    return int(encoding["offset_mapping"][0][1])


def _document_windows(offsets: np.ndarray, context: int, overlap: int) -> np.ndarray:
    """The card's windows as (W, 3): every token after a window's first is a target."""
    begin, end = card_windows(offsets, context, overlap).T
    return np.stack([begin, begin + 1, end], axis=1)


def _sum_nats(
    model: Any, ids: np.ndarray, windows: np.ndarray, progress: Progress | None = None
) -> tuple[float, int]:
    """The sum of -ln p over all targets, and their number.

    ``windows`` (W, 3) holds begin, first target and end, as positions in ``ids``. The logits are
    turned into losses in float32 and summed in float64, whatever the model's dtype.
    """
    import torch

    total = int((windows[:, 2] - windows[:, 1]).sum())
    nats, done = 0.0, 0
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in _batches(windows, model.get_input_embeddings().weight.shape[0]):
                nats += _batch_nats(model, ids, rows)
                done += int((rows[:, 2] - rows[:, 1]).sum())
                if progress is not None:
                    progress(done, total)
    finally:
        model.train(training)
    return nats, total


def _batches(windows: np.ndarray, vocabulary: int) -> Iterator[np.ndarray]:
    """Windows of like shape together, the longest first, so that little is padding.

    Sorted further by the number of their targets, because a batch needs no logits before the
    first target of all its rows.
    """
    begin, first_target, end = windows.T
    order = np.lexsort((first_target - begin, begin - end))
    start = 0
    while start < len(order):
        longest = windows[order[start]]
        rows = max(1, LOGITS_PER_BATCH // (int(longest[2] - longest[0]) * vocabulary))
        yield windows[order[start : start + rows]]
        start += rows


def _batch_nats(model: Any, ids: np.ndarray, windows: np.ndarray) -> float:
    """The sum of -ln p over the targets of a few windows (B, 3), in one forward pass.

    Shorter rows are filled up on the right. No mask is needed: in a causal model, what stands to
    the right of a target cannot change its prediction.
    """
    import torch
    from torch.nn.functional import cross_entropy

    begin, first_target, end = (column[:, None] for column in windows.T)
    positions = begin + np.arange(int((end - begin).max()))  # (B, T)
    rows = torch.from_numpy(ids[np.minimum(positions, end - 1)].astype(np.int64))
    counted = torch.from_numpy((positions >= first_target) & (positions < end))
    targets = rows.masked_fill(~counted, -100)

    logits = model(input_ids=rows[:, :-1].to(model.device)).logits  # (B, T - 1, V)
    start = int((first_target - begin).min())
    losses = cross_entropy(
        logits[:, start - 1 :].flatten(0, 1).float(),
        targets[:, start:].flatten().to(logits.device),
        reduction="none",
    )
    return float(losses.cpu().double().sum())  # there is no float64 on mps
