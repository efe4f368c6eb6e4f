"""How well a causal language model predicts a text, by three protocols.

``strided`` (the default) reads the raw split as one stream and predicts every token exactly once.
``card`` is the protocol of the Lumiére model card: cleaned documents, short windows that overlap
by 8 tokens. ``lm_eval`` gives the word perplexity of EleutherAI's lm_eval to all digits. Losses
are in nats per token; only bits per byte compares across tokenizers.

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
LM_EVAL_CONTEXT = 2048  # what lm_eval takes where neither config nor tokenizer names a length
# Beyond this exp(loss) is no float. A working model is below ln V, 13 at most.
LARGEST_LOSS = 700.0

# What a tokenizer is called with. verbose: no warning that the text is longer than the context.
AS_PLAIN_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _TokenisedText:
    """A split, ready to be scored. None in place of what the tokenizer does not give back."""

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

    ``model`` is any causal language model of transformers, ``tokenizer`` the one it was trained
    with. ``context`` is in tokens; without it, ``strided`` takes what the model takes, but at most
    1024, ``card`` takes 64, and ``lm_eval`` all that the model takes. ``stride`` (``strided`` only)
    is half the context unless given; as long as the context it gives the windows of lm_eval.
    ``progress`` is called with the targets scored so far and in all. Memory grows with the split's
    tokens, not with its text, of which only a piece is held at a time (``lm_eval``: a document).

    Bits per byte and word perplexity are of what decoding the ids gives back
    (:mod:`.roundtrip`), and None where that is not the text; ``lm_eval`` divides by the raw text.

    Raises UserError where the model is not causal, cannot take the context or the tokenizer's ids,
    where the split is too short, and where the loss is not finite.
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
            f"the model's loss on {corpus.name} is {loss}, which is no prediction at all: its "
            "weights are damaged, or overflow in this dtype (try float32)"
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
    """Context and stride with their defaults filled in."""
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {quoted(protocol)}: choose strided, card or lm_eval")
    if stride is not None and protocol != "strided":
        fixed = {
            "card": f"the card's protocol has a fixed overlap of {CARD_OVERLAP} tokens",
            "lm_eval": "the protocol lm_eval has a fixed stride, its context",
        }
        raise UserError(f"{fixed[protocol]}: leave out the stride, or choose the protocol strided")
    context = _check_context(model, tokenizer, protocol, context)
    if protocol == "card":
        return context, context - CARD_OVERLAP
    if protocol == "lm_eval":
        return context, context
    if context < 2:
        raise UserError(f"a context of {context} predicts nothing: choose 2 tokens or more")
    return context, context // 2 if stride is None else stride


def _check_context(model: Any, tokenizer: Any, protocol: str, asked: int | None) -> int:
    """The context that was asked for, if the model takes it, or the protocol's."""
    limit = context_limit(model)
    if asked is None:
        usual = {"strided": LONGEST_DEFAULT_CONTEXT, "card": CARD_CONTEXT}.get(protocol)
        if usual is None:
            usual = limit or _named_length(tokenizer) or LM_EVAL_CONTEXT
        return usable_context(model, usual if limit is None else min(limit, usual))
    if asked < 1:
        raise UserError(f"a context of {asked} predicts nothing: choose 2 tokens or more")
    wanted = asked if limit is None else min(limit, asked)
    takes = usable_context(model, wanted)
    if takes < asked:
        raise UserError(
            f"the model takes {takes} tokens, not {asked}: choose a context up to {takes}"
        )
    return asked


def _named_length(tokenizer: Any) -> int | None:
    """The longest input that a tokenizer's files name; transformers puts 10**30 for none."""
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


def _as_stream(tokenizer: Any, chunks: Iterable[str], context: int, stride: int) -> _TokenisedText:
    """The raw text as one stream after the beginning-of-text token, or the end token.

    A tokenizer with neither leaves the first token without a prediction. Then the bytes of the
    characters that it covers are not counted, nor the words that begin in it.
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
    return _TokenisedText(
        ids=ids,
        windows=strided_windows(len(ids), context, stride),
        raw_bytes=roundtrip.raw.bytes,
        bytes=roundtrip.bytes,
        words=roundtrip.words,
        documents=None,
        notes=roundtrip.notes(),
    )


def _as_documents(tokenizer: Any, pieces: Iterable[Piece], context: int) -> _TokenisedText:
    """Each document in its frame (:func:`.document_frame`), in windows that never cross one."""
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
    return _TokenisedText(
        ids=np.concatenate(parts),
        windows=document_windows(np.array(offsets, np.int64), context, CARD_OVERLAP),
        raw_bytes=roundtrip.raw.bytes,
        bytes=roundtrip.bytes,
        words=roundtrip.words,
        documents=len(offsets) - 1,
        notes=roundtrip.notes(),
    )


def _as_lm_eval(tokenizer: Any, pieces: Iterable[Piece], context: int) -> _TokenisedText:
    """The documents as lm_eval's ``loglikelihood_rolling`` cuts them, and its words and bytes.

    Each is encoded whole, special tokens in it and around it included, after the
    beginning-of-text token. Its windows take ``context`` tokens and predict as many; the last one
    of a document predicts what is left, and reaches back for the rest.
    """
    prefix = _first_given(tokenizer.bos_token_id, tokenizer.eos_token_id)
    if prefix is None:
        raise UserError(
            "the tokenizer has no beginning-of-text token and no end token, one of which lm_eval "
            "puts before a text: choose the protocol strided"
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
    return _TokenisedText(
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
            f"the beginning-of-text token is there twice in {doubled:,} of {documents:,} "
            "documents, once by lm_eval and once by the tokenizer, and the second is predicted too"
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
    """The ids of ``text``, in which ``<|eot|>`` is seven characters and no special token.

    That is how the text is read for training, too.
    """
    return list(tokenizer(text, **AS_PLAIN_TEXT)["input_ids"])


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
