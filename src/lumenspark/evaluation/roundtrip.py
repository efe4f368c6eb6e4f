"""How much of a text its token ids give back: what bits per byte divide by.

A tokenizer may change a text before it cuts it (NFKC, lower case, whitespace), or have no tokens
for parts of it. A model that predicts the ids predicts what decoding them gives and no more, so no
other bytes count. Where text is lost there is no figure per byte or word, and where much of it
is, no figure at all.
"""

import re
import unicodedata
from typing import Any

from lumenspark.data.corpora import Piece
from lumenspark.errors import UserError, quoted

MUCH = 0.1  # of the tokens or characters
LONGEST_EXAMPLE = 24  # characters of the place where text is lost
_SPACE = re.compile(r"[\s\u2581]+")  # sentencepiece writes U+2581 for a space


class TextSize:
    """UTF-8 bytes and words (``text.split()``) of texts that come in pieces."""

    def __init__(self) -> None:
        self.bytes = 0
        self.words = 0
        self._ended_in_word = False

    def add(self, text: str, starts: bool) -> None:
        """``starts``: the text begins a word of its own, whatever came before."""
        if not text:
            return
        # A piece of a text without whitespace may end inside a word, which is counted once.
        goes_on = self._ended_in_word and not starts and not text[0].isspace()
        self.bytes += len(text.encode())
        self.words += len(text.split()) - goes_on
        self._ended_in_word = not text[-1].isspace()


class RoundTrip:
    """What decoding gives back of a text that comes in pieces. Memory does not grow with it.

    Attributes:
        raw: the size of the text itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.raw = TextSize()
        self._tokenizer = tokenizer
        self._decoded = TextSize()
        self._added_space = 0  # bytes of whitespace that decoding has put in
        self._difference: str | None = None
        self._tokens = self._unknown = 0
        self._characters = self._missing = 0  # whitespace apart
        self._had_capitals = self._gave_capitals = False

    def add(self, piece: Piece, ids: list[int]) -> None:
        """``ids`` are those of the piece, without the special tokens around it."""
        text = piece.text
        self._tokens += len(ids)
        self.raw.add(text, piece.starts)
        decoded = self._decode(ids)
        self._decoded.add(decoded, piece.starts or text[0].isspace())
        if decoded == text:
            return
        self._had_capitals |= text != text.lower()
        self._gave_capitals |= decoded != decoded.lower()
        meant = _normalized(self._tokenizer, text)
        if decoded in meant:
            return
        found, expected = _SPACE.sub("", decoded), _SPACE.sub("", meant[-1])
        self._characters += len(expected)
        if found in {_SPACE.sub("", form) for form in (text, *meant)}:
            self._added_space += max(0, _space_bytes(decoded) - _space_bytes(text))
            return
        unknown = _unknown_id(self._tokenizer)
        self._unknown += 0 if unknown is None else ids.count(unknown)
        self._missing += max(0, len(expected) - len(found))
        self._difference = self._difference or _difference(expected, found)

    def skip(self, text: str, first_id: int) -> None:
        """Leave out the first token, which covers ``text`` and which nothing predicts."""
        given = self._decode([first_id])
        whole = "\ufffd" not in given  # it may end inside a character
        self.raw.bytes -= len(text.encode())
        self.raw.words -= len(text.split())
        self._decoded.bytes -= len((given if whole else text).encode())
        self._decoded.words -= len(text.split())

    @property
    def is_lossless(self) -> bool:
        """Whether decoding gives back all of the text, but for how it is written."""
        return self._difference is None

    @property
    def bytes(self) -> int | None:
        """UTF-8 bytes of what decoding gives back; None where text is lost."""
        return self._decoded.bytes - self._added_space if self.is_lossless else None

    @property
    def words(self) -> int | None:
        """Words that are in the text and in what decoding gives back; None where text is lost."""
        return min(self.raw.words, self._decoded.words) if self.is_lossless else None

    def check(self) -> None:
        """Raise UserError where so much is lost that the ids are not about the text."""
        unknown = self._unknown > MUCH * self._tokens
        if unknown or self._missing > MUCH * self._characters:
            raise UserError(
                f"the tokenizer does not fit the text, since {self._loss()}: use the tokenizer "
                "that the model was trained with, or another text"
            )

    def notes(self) -> list[str]:
        """What a reader of figures per byte and per word has to know, in sentences."""
        if not self.is_lossless:
            return [f"no bits per byte and no word perplexity, since {self._loss()}"]
        if self._had_capitals and not self._gave_capitals:
            return ["the tokenizer makes all letters small, so the text is a simpler one"]
        return []

    def _loss(self) -> str:
        loss = f"decoding does not give the text back ({self._difference})"
        if not self._unknown:
            return loss
        return (
            f"{self._unknown:,} of {self._tokens:,} tokens are unknown to the tokenizer and {loss}"
        )

    def _decode(self, ids: list[int]) -> str:
        decoded = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(decoded)


def _normalized(tokenizer: Any, text: str) -> list[str]:
    """The forms in which the tokenizer may read ``text``; the last is the likeliest."""
    if not tokenizer.is_fast:  # written in Python: it does not say what it does
        compatible = unicodedata.normalize("NFKC", text)
        return [compatible.lower(), compatible, text]
    normalizer = tokenizer.backend_tokenizer.normalizer
    return [text if normalizer is None else normalizer.normalize_str(text)]


def _unknown_id(tokenizer: Any) -> int | None:
    """The id of what stands for all that a tokenizer does not know, if it has one."""
    if tokenizer.unk_token_id is not None or not tokenizer.is_fast:
        return tokenizer.unk_token_id
    token = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    return None if token is None else tokenizer.backend_tokenizer.token_to_id(token)


def _space_bytes(text: str) -> int:
    return sum(len(run.encode()) for run in _SPACE.findall(text.replace("\u2581", " ")))


def _difference(expected: str, found: str) -> str:
    """The place where what was decoded departs from the text, both without whitespace."""
    pairs = enumerate(zip(expected, found, strict=False))
    shorter = min(len(expected), len(found))
    place = next((i for i, (one, other) in pairs if one != other), shorter)
    end = place + LONGEST_EXAMPLE
    return f"{quoted(found[place:end])} for {quoted(expected[place:end])}"
