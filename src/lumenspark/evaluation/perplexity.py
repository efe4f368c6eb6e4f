"""How well a causal language model predicts a text, by two protocols.

``strided`` (the default) reads the raw split as one stream and predicts every token exactly once.
``card`` is the protocol of the Lumiére model card: cleaned documents, short windows that overlap
by 8 tokens. Losses are in nats per token; only bits per byte compares across tokenizers.

Works for every causal language model and tokenizer of transformers.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lumenspark.data.corpora import Corpus, Piece, clean_articles
from lumenspark.data.documents import cut
from lumenspark.data.tokenizer import document_frame
from lumenspark.data.windows import strided_windows
from lumenspark.errors import UserError
from lumenspark.evaluation.records import Evaluation
from lumenspark.scoring import CARD_CONTEXT, CARD_OVERLAP, Progress, document_windows, sum_nats

PROTOCOLS = ("strided", "card")
# The default context of models that take longer texts than this, or texts of any length.
LONGEST_DEFAULT_CONTEXT = 1024
# Beyond this exp(loss) is no float. A working model is below ln V, 13 at most.
LARGEST_LOSS = 700.0
# A config gives the longest text that its model takes under one of these names.
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")

# What a tokenizer is called with. verbose: no warning that the text is longer than the context.
AS_PLAIN_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}

Ids = npt.NDArray[np.int32]


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
    nats, targets = sum_nats(model, text.ids, text.windows, progress)
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
        windows=document_windows(np.array(offsets, np.int64), context, CARD_OVERLAP),
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
