"""Round trip of a text through a tokenizer: the bytes that its token ids decode to.

A tokenizer may normalize the text (NFKC, lower case, whitespace) or lack tokens for parts of it. A
model that predicts the ids predicts only the decoded text, so bits per byte divides by its bytes.
If text is lost, per-byte and per-word metrics are undefined; if much is lost, scoring is refused.
"""

import re
import unicodedata
from typing import Any

from lumenspark.data.corpora import Piece
from lumenspark.errors import UserError, quoted

MAX_LOSS = 0.1  # fraction of tokens or characters
LONGEST_EXAMPLE = 24  # characters of a difference in a message
_SPACE = re.compile(r"[\s\u2581]+")  # sentencepiece writes U+2581 for a space


class TextSize:
    """UTF-8 bytes and words (``text.split()``), accumulated over pieces."""

    def __init__(self) -> None:
        self.bytes = 0
        self.words = 0
        self._ended_in_word = False

    def add(self, text: str, starts: bool) -> None:
        """``starts``: the text starts a new word in any case."""
        if not text:
            return
        # A piece may end inside a word, which is counted once.
        continues = self._ended_in_word and not starts and not text[0].isspace()
        self.bytes += len(text.encode())
        self.words += len(text.split()) - continues
        self._ended_in_word = not text[-1].isspace()


class RoundTrip:
    """Compares text pieces with their decoded token ids, in constant memory.

    Attributes:
        raw: size of the original text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.raw = TextSize()
        self._tokenizer = tokenizer
        self._decoded = TextSize()
        self._added_space = 0  # bytes of whitespace added by decoding
        self._difference: str | None = None
        self._tokens = self._unknown = 0
        self._characters = self._missing = 0  # without whitespace
        self._had_capitals = self._gave_capitals = False

    def add(self, piece: Piece, ids: list[int]) -> None:
        """``ids``: the token ids of the piece, without special tokens around it."""
        text = piece.text
        self._tokens += len(ids)
        self.raw.add(text, piece.starts)
        decoded = self._decode(ids)
        self._decoded.add(decoded, piece.starts or text[0].isspace())
        if decoded == text:
            return
        self._had_capitals |= text != text.lower()
        self._gave_capitals |= decoded != decoded.lower()
        expected_forms = _normalized(self._tokenizer, text)
        if decoded in expected_forms:
            return
        found, expected = _SPACE.sub("", decoded), _SPACE.sub("", expected_forms[-1])
        self._characters += len(expected)
        if found in {_SPACE.sub("", form) for form in (text, *expected_forms)}:
            self._added_space += max(0, _space_bytes(decoded) - _space_bytes(text))
            return
        unknown = _unknown_id(self._tokenizer)
        self._unknown += 0 if unknown is None else ids.count(unknown)
        self._missing += max(0, len(expected) - len(found))
        self._difference = self._difference or _difference(expected, found)

    def skip(self, text: str, first_id: int) -> None:
        """Exclude the first token, which covers ``text`` and is not predicted."""
        given = self._decode([first_id])
        whole = "\ufffd" not in given  # the token may end inside a character
        self.raw.bytes -= len(text.encode())
        self.raw.words -= len(text.split())
        self._decoded.bytes -= len((given if whole else text).encode())
        self._decoded.words -= len(text.split())

    @property
    def is_lossless(self) -> bool:
        """Whether decoding restores the text up to normalization and whitespace."""
        return self._difference is None

    @property
    def bytes(self) -> int | None:
        """UTF-8 bytes of the decoded text; None if text is lost."""
        return self._decoded.bytes - self._added_space if self.is_lossless else None

    @property
    def words(self) -> int | None:
        """Words in both the original and the decoded text; None if text is lost."""
        return min(self.raw.words, self._decoded.words) if self.is_lossless else None

    def check(self) -> None:
        """Raise UserError if more than a tenth of the tokens or characters is lost."""
        unknown = self._unknown > MAX_LOSS * self._tokens
        if unknown or self._missing > MAX_LOSS * self._characters:
            raise UserError(
                f"the tokenizer does not fit the text, since {self._loss()}: use the model's own "
                "tokenizer, or another text"
            )

    def notes(self) -> list[str]:
        """Notes on per-byte and per-word metrics."""
        if not self.is_lossless:
            return [f"no bits per byte and no word perplexity, since {self._loss()}"]
        if self._had_capitals and not self._gave_capitals:
            return ["the tokenizer lowercases the text, which makes it easier to predict"]
        return []

    def _loss(self) -> str:
        loss = f"decoding does not restore the text ({self._difference})"
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
    """Possible normalized forms of ``text``; the last is the most likely."""
    if not tokenizer.is_fast:  # slow tokenizers do not expose their normalizer
        compatible = unicodedata.normalize("NFKC", text)
        return [compatible.lower(), compatible, text]
    normalizer = tokenizer.backend_tokenizer.normalizer
    return [text if normalizer is None else normalizer.normalize_str(text)]


def _unknown_id(tokenizer: Any) -> int | None:
    """The id of the unknown token, if any."""
    if tokenizer.unk_token_id is not None or not tokenizer.is_fast:
        return tokenizer.unk_token_id
    token = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    return None if token is None else tokenizer.backend_tokenizer.token_to_id(token)


def _space_bytes(text: str) -> int:
    return sum(len(run.encode()) for run in _SPACE.findall(text.replace("\u2581", " ")))


def _difference(expected: str, found: str) -> str:
    """The first difference of decoded and original text, both without whitespace."""
    pairs = enumerate(zip(expected, found, strict=False))
    shorter = min(len(expected), len(found))
    place = next((i for i, (one, other) in pairs if one != other), shorter)
    end = place + LONGEST_EXAMPLE
    return f"{quoted(found[place:end])} for {quoted(expected[place:end])}"
