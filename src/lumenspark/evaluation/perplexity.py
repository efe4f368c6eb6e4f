"""Perplexity and bits per byte of a causal language model, by three protocols.

``strided`` (the default) reads the raw split as one stream and predicts every token exactly once.
``card`` is the protocol of the Lumiére model card: cleaned documents, short windows with an overlap
of 8 tokens. ``lm_eval`` reproduces the word perplexity of EleutherAI's lm_eval to all digits.
Losses are in nats per token; only bits per byte compares across tokenizers.

Works for every causal language model and tokenizer of transformers.
"""

import math
import re
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
from lumenspark.errors import UserError, quoted
from lumenspark.evaluation.model_checks import (
    LONGEST_DEFAULT_CONTEXT,
    check_causal,
    context_limit,
    usable_context,
)
from lumenspark.evaluation.results import Evaluation
from lumenspark.evaluation.roundtrip import RoundTrip
from lumenspark.evaluation.scoring import (
    CARD_CONTEXT,
    CARD_OVERLAP,
    Progress,
    document_windows,
    sum_nats,
    sum_nats_like_lm_eval,
)

PROTOCOLS = ("strided", "card", "lm_eval")
LM_EVAL_CONTEXT = 2048  # lm_eval's default if neither config nor tokenizer has a length
# exp(loss) overflows beyond this. A working model is below ln V, at most 13.
LARGEST_LOSS = 700.0

# verbose: no warning for texts longer than the context.
AS_PLAIN_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _TokenizedText:
    """A tokenized split with its windows. Counts are None if decoding loses text."""

    ids: Ids  # (tokens,)
    windows: np.ndarray  # int64 (W, 3): begin, first target, end
    raw_bytes: int
    bytes: int | None
    words: int | None
    documents: int | None
    notes: list[str]


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

    ``model`` is any causal language model of transformers, ``tokenizer`` its tokenizer.
    ``context`` is in tokens; default: the model's maximum (at most 1024) for ``strided``, 64 for
    ``card``, the model's maximum for ``lm_eval``. ``stride`` (``strided`` only) defaults to half
    the context; a stride of the whole context gives the windows of lm_eval. ``progress`` is called
    with the targets scored so far and in total. Memory grows with the number of tokens; of the text
    only a piece is in memory at a time (``lm_eval``: a document).

    Bits per byte and word perplexity refer to the decoded token ids (:mod:`.roundtrip`), and are
    None if decoding loses text; ``lm_eval`` divides by the raw text.

    Raises UserError for a model that is not causal or does not take the context or the token ids,
    a split too short, and a loss that is not finite.
    """
    started = time.monotonic()
    context, stride = _check_settings(model, tokenizer, protocol, context, stride)
    if protocol == "strided":
        text = _as_stream(tokenizer, corpus.text_chunks(split), context, stride)
    elif protocol == "card":
        pieces = clean_articles(corpus.pieces(split), corpus.layout, "drop")
        text = _as_documents(tokenizer, pieces, context)
    else:
        text = _as_lm_eval(tokenizer, corpus.pieces(split), context)
    if len(text.windows) == 0:
        raise UserError(
            f"the {split} split of {corpus.name} has fewer than two tokens, so there is nothing to "
            "predict: choose another split or more text"
        )
    _check_vocabulary(model, int(text.ids.max()))
    longest = text.windows[(text.windows[:, 2] - text.windows[:, 0]).argmax()]
    check_causal(model, text.ids[longest[0] :], int(longest[2] - longest[0]) - 1)
    score = sum_nats_like_lm_eval if protocol == "lm_eval" else sum_nats
    nats, targets = score(model, text.ids, text.windows, progress)
    loss = nats / targets
    if not loss < LARGEST_LOSS:
        raise UserError(
            f"the model's loss on {corpus.name} is {loss}: its weights are damaged, or overflow in "
            "this dtype (try float32)"
        )
    summable = protocol != "card"
    return Evaluation(
        protocol=protocol,
        data=corpus.name,
        split=split,
        layout=corpus.layout,
        data_digest=corpus.digest(),
        hub_id=corpus.hub_id,
        revision=corpus.revision,
        config=corpus.config,
        text_field=corpus.text_field,
        entropy=corpus.entropy(split),
        model_revision=getattr(model, "hub_revision", None),
        loss=loss,
        perplexity=math.exp(loss),
        word_perplexity=_word_perplexity(nats, text.words) if summable else None,
        bits_per_byte=nats / math.log(2) / text.bytes if summable and text.bytes else None,
        targets=targets,
        bytes=text.bytes,
        raw_bytes=text.raw_bytes,
        words=text.words,
        documents=text.documents,
        windows=len(text.windows),
        context=context,
        stride=stride,
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=round(time.monotonic() - started, 3),
        notes=text.notes,
    )


def _check_settings(
    model: Any, tokenizer: Any, protocol: str, context: int | None, stride: int | None
) -> tuple[int, int]:
    """Context and stride with defaults resolved."""
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {quoted(protocol)}: choose strided, card or lm_eval")
    if stride is not None and protocol != "strided":
        fixed = {
            "card": f"the card's protocol has a fixed overlap of {CARD_OVERLAP} tokens",
            "lm_eval": "the protocol lm_eval has its context as a fixed stride",
        }
        raise UserError(f"{fixed[protocol]}: omit the stride, or choose the protocol strided")
    context = _check_context(model, tokenizer, protocol, context)
    if protocol == "card":
        return context, context - CARD_OVERLAP
    if protocol == "lm_eval":
        return context, context
    if context < 2:
        raise UserError(f"a context of {context} predicts nothing: choose 2 tokens or more")
    return context, context // 2 if stride is None else stride


def _check_context(model: Any, tokenizer: Any, protocol: str, requested: int | None) -> int:
    """The requested context, if the model takes it, or the protocol's default."""
    limit = context_limit(model)
    if requested is None:
        usual = {"strided": LONGEST_DEFAULT_CONTEXT, "card": CARD_CONTEXT}.get(protocol)
        if usual is None:
            usual = limit or _named_length(tokenizer) or LM_EVAL_CONTEXT
        return usable_context(model, usual if limit is None else min(limit, usual))
    if requested < 1:
        raise UserError(f"a context of {requested} predicts nothing: choose 2 tokens or more")
    wanted = requested if limit is None else min(limit, requested)
    takes = usable_context(model, wanted)
    if takes < requested:
        raise UserError(
            f"the model takes {takes} tokens, not {requested}: choose a context up to {takes}"
        )
    return requested


def _named_length(tokenizer: Any) -> int | None:
    """The tokenizer's maximum length; None if unset (10**30 in transformers)."""
    length = tokenizer.model_max_length
    return length if isinstance(length, int) and length < 10**9 else None


def _check_vocabulary(model: Any, largest_id: int) -> None:
    entries = model.get_input_embeddings().weight.shape[0]
    if largest_id >= entries:
        raise UserError(
            f"the tokenizer gives id {largest_id}, but the model's vocabulary has {entries} "
            "entries: use the tokenizer that the model was trained with"
        )


def _word_perplexity(nats: float, words: int | None) -> float | None:
    if not words or nats / words > LARGEST_LOSS:
        return None
    return math.exp(nats / words)


def _as_stream(tokenizer: Any, chunks: Iterable[str], context: int, stride: int) -> _TokenizedText:
    """The raw text as one stream after BOS, or EOS without one.

    With neither, the first token is not predicted: the bytes it covers and the words that start in
    it are not counted.
    """
    prefix = _first_given(tokenizer.bos_token_id, tokenizer.eos_token_id)
    parts = [_ids([] if prefix is None else [prefix])]
    roundtrip = RoundTrip(tokenizer)
    for piece in cut(chunks):
        part = _encode(tokenizer, piece.text)
        roundtrip.add(piece, part)
        if piece.starts and prefix is None and part:
            roundtrip.skip(piece.text[: _first_token_end(tokenizer, piece.text, part[0])], part[0])
        parts.append(_ids(part))
    roundtrip.check()
    ids = np.concatenate(parts)
    return _TokenizedText(
        ids=ids,
        windows=strided_windows(len(ids), context, stride),
        raw_bytes=roundtrip.raw.bytes,
        bytes=roundtrip.bytes,
        words=roundtrip.words,
        documents=None,
        notes=roundtrip.notes(),
    )


def _as_documents(tokenizer: Any, pieces: Iterable[Piece], context: int) -> _TokenizedText:
    """Framed documents (:func:`.document_frame`) in windows that never cross documents."""
    before, after = document_frame(tokenizer)
    parts, offsets, length = [_ids([])], [0], 0
    roundtrip = RoundTrip(tokenizer)
    for piece in pieces:
        part = _encode(tokenizer, piece.text)
        roundtrip.add(piece, part)
        parts.append(_ids(before * piece.starts + part + after * piece.ends))
        length += len(parts[-1])
        if piece.ends:
            offsets.append(length)
    roundtrip.check()
    return _TokenizedText(
        ids=np.concatenate(parts),
        windows=document_windows(np.array(offsets, np.int64), context, CARD_OVERLAP),
        raw_bytes=roundtrip.raw.bytes,
        bytes=roundtrip.bytes,
        words=roundtrip.words,
        documents=len(offsets) - 1,
        notes=roundtrip.notes(),
    )


def _as_lm_eval(tokenizer: Any, pieces: Iterable[Piece], context: int) -> _TokenizedText:
    """Windows, words and bytes as in lm_eval's ``loglikelihood_rolling``.

    Each document is encoded whole after BOS, with special tokens in and around it. Windows predict
    ``context`` tokens from as many inputs; the last one of a document predicts the rest, with
    earlier tokens as context.
    """
    prefix = _first_given(tokenizer.bos_token_id, tokenizer.eos_token_id)
    if prefix is None:
        raise UserError(
            "the tokenizer has neither BOS nor EOS token, one of which lm_eval puts before a text: "
            "choose the protocol strided"
        )
    parts, windows = [_ids([])], [np.empty((0, 3), np.int64)]
    length = words = documents = doubled = 0
    roundtrip = RoundTrip(tokenizer)
    for text in _whole_documents(pieces):
        own = {"add_special_tokens": False} if text.startswith(tokenizer.decode(prefix)) else {}
        part = [prefix, *tokenizer.encode(text, verbose=False, **own)]
        doubled += part[1:2] == [prefix]
        windows.append(length + strided_windows(len(part), context, context))
        length += len(part)
        parts.append(_ids(part))
        words += len(re.split(r"\s+", text))
        documents += 1
        roundtrip.add(Piece(text), _encode(tokenizer, text))
    roundtrip.check()
    return _TokenizedText(
        ids=np.concatenate(parts),
        windows=np.concatenate(windows),
        raw_bytes=roundtrip.raw.bytes,
        bytes=roundtrip.raw.bytes if roundtrip.is_lossless else None,
        words=words if roundtrip.is_lossless else None,
        documents=documents,
        notes=_notes_about_lm_eval(roundtrip, doubled, documents),
    )


def _notes_about_lm_eval(roundtrip: RoundTrip, doubled: int, documents: int) -> list[str]:
    notes = roundtrip.notes()
    if roundtrip.is_lossless and roundtrip.bytes != roundtrip.raw.bytes:
        notes.append(
            f"lm_eval divides by the {roundtrip.raw.bytes:,} bytes of the raw text; the token ids "
            f"decode to {roundtrip.bytes:,} of them"
        )
    if doubled:
        notes.append(
            f"the BOS token occurs twice in {doubled:,} of {documents:,} documents, added by "
            "lm_eval and by the tokenizer, and the second one is predicted"
        )
    return notes


def _whole_documents(pieces: Iterable[Piece]) -> Iterable[str]:
    parts: list[str] = []
    for piece in pieces:
        parts.append(piece.text)
        if piece.ends:
            yield "".join(parts)
            parts = []


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``; a literal ``<|eot|>`` is text, not a special token, as in training."""
    return list(tokenizer(text, **AS_PLAIN_TEXT)["input_ids"])


def _ids(ids: list[int]) -> Ids:
    return np.array(ids, np.int32)


def _first_given(*token_ids: int | None) -> int | None:
    return next((token_id for token_id in token_ids if token_id is not None), None)


def _first_token_end(tokenizer: Any, text: str, first_id: int) -> int:
    """Number of characters of ``text`` covered by the first token."""
    if not tokenizer.is_fast:
        return len(tokenizer.decode([first_id]))
    encoding = tokenizer(text, **AS_PLAIN_TEXT, return_offsets_mapping=True)
    return int(encoding["offset_mapping"][0][1])
