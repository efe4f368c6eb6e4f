"""Documents, the pieces they are read in, and the three splits they fall into. Text only."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lumenspark.data.split_names import SPLITS
from lumenspark.errors import UserError, quoted, shortened

FILE_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
PIECE = 1 << 16  # characters; encoding takes about 250 bytes of memory for each
SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}

TEXT_FIELD_FIX = (
    "name the right text field (--corpus.text-field for train, prepare and sweep, --text-field for "
    "evaluate and compress)"
)
LONGEST_NAME = 400  # characters of a path in a message
MARK = "\ufeff"  # a byte-order mark says how a file is encoded and is no part of its text

_MARKS = re.compile(f"(?<![^\n]){MARK}+")  # where a line begins
_HALF_PAIR = re.compile("[\ud800-\udfff]")
# \x1c to \x1f are whitespace to Python, but not to Unicode and the pre-tokenizers
_BEFORE_WHITESPACE = re.compile(r"\S(?=[^\S\x1c-\x1f])")


@dataclass(frozen=True)
class Piece:
    """A document, or a part of a long one: memory never grows with a document."""

    text: str
    starts: bool = True
    """The first piece of its document."""
    ends: bool = True
    """The last piece of its document."""


class Corpus(ABC):
    """Documents in up to three splits. Subclasses say where they come from.

    Attributes:
        name: what the user called it: ``python-docs``, ``wikitext-2``, a path, a hub id.
        layout: ``plain``, or ``wikitext`` (a document is an article, with its headings).
        hub_id: the data set on the hub, None for anything else.
        revision: the hub commit, resolved.
        config: the hub configuration, or the folder inside a local one, that was asked for.
        text_field: the field or column that holds the text, in rows.
        license: as the source names it, None when it does not.
        language: ISO 639-1 code, None when the source names none or several.
        left_out: what lies there and is not read, by name: files, or splits of a hub set (which
            are known after the first look at it).
    """

    name: str
    layout: str
    hub_id: str | None = None
    revision: str | None = None
    config: str | None = None
    text_field: str = "text"
    license: str | None = None
    language: str | None = None
    left_out: tuple[str, ...] = ()

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) over everything that determines the documents."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that the source names; all three where it names none and text is divided."""

    def is_divided(self) -> bool:
        """Whether the source names no splits, so that its documents are divided."""
        return False

    def file_count(self, split: str) -> int | None:
        """How many files the split is read from; None where the text comes from no files."""
        return None

    def check_unchanged(self) -> None:  # noqa: B027, most sources cannot change
        """Raise UserError where the text is known to have changed since :meth:`digest`."""

    @abstractmethod
    def documents(self, split: str) -> Iterator[Piece]:
        """The documents of a split that is in ``splits()``.

        Raises:
            UserError: text that cannot be read. Never an OSError, which is left to who writes.
        """

    @abstractmethod
    def size(self, split: str) -> int | None:
        """About how many bytes of text the split holds; None when nobody knows without reading."""

    def pieces(self, split: str) -> Iterator[Piece]:
        """The documents of ``split`` in their raw form, long ones in several pieces.

        Raises:
            UserError: there is no such split, or no text in it, or text that cannot be read.
        """
        if split not in self.splits():
            raise UserError(self.missing(split))
        empty = True
        for piece in self.documents(split):
            empty = False
            yield piece
        if empty:
            raise UserError(self.missing(split))

    def missing(self, split: str) -> str:
        """The sentence for a split without text: why, and what to do."""
        if split not in SPLITS:
            return f"there is no split {quoted(split)}: the splits are {', '.join(SPLITS)}"
        files = " or ".join(f"{name}.txt" for name in FILE_NAMES[split])
        if split not in self.splits():
            found = ", ".join(self.splits())
            return (
                f"{shown(self.name)} has no {split} split, only {found}: name a file of it {files} "
                "(.md, .jsonl, .csv, .parquet likewise), or put files in a folder "
                f"{' or '.join(FILE_NAMES[split])}"
            )
        return (
            f"there is no text in the {split} split of {shown(self.name)}: give more documents "
            f"(where no file is named after a split, {SHARES[split]:.0%} of the documents fall "
            f"into {split}, chosen by hash), or name a file {files}"
        )

    def what_is_left_out(self) -> str | None:
        """What is not read, in a line; None where everything is."""
        if not self.left_out:
            return None
        count = len(self.left_out)
        noun, source = ("file", "") if self.hub_id is None else ("split", f" of {self.hub_id}")
        counted = f"{count:,} {noun}{'' if count == 1 else 's'}{source}"
        return f"left out: {counted} ({listed(self.left_out)})"

    def text_chunks(self, split: str) -> Iterator[str]:
        """The split as one raw text, bit by bit, with a line break between documents without one.

        For a split that is one local file this is the file, byte for byte in UTF-8, but for
        byte-order marks, which are no text, and Windows line ends, which are read as ``\\n``. So
        bytes are counted of the same text that a model is trained on and scored on.
        """
        line_ended = True
        for piece in self.pieces(split):
            if piece.starts and not line_ended:
                yield "\n"
            yield piece.text
            line_ended = piece.text.endswith("\n")

    def text(self, split: str) -> str:
        """The whole split as one raw string: see :meth:`text_chunks`."""
        return "".join(self.text_chunks(split))


def cut(chunks: Iterable[str], size: int = PIECE) -> Iterator[Piece]:
    """One document, given in chunks, as pieces of at most ``size`` characters.

    A piece ends just before a run of whitespace. No pre-tokenizer of the GPT-2 kind joins a
    character to whitespace after it, and NFKC never combines across that place, so the pieces
    have the ids of the whole. Where ``size`` characters hold no such place, the cut is hard.
    """
    rest, starts = "", True
    for chunk in chunks:
        rest += chunk
        while len(rest) > size:
            end = _last_cut(rest, size)
            yield Piece(rest[:end], starts, ends=False)
            rest, starts = rest[end:], False
    if rest:
        yield Piece(rest, starts, ends=True)


def _last_cut(text: str, size: int) -> int:
    for window in (1024, size):  # the last such place is nearly always close to the end
        places = _BEFORE_WHITESPACE.finditer(text, max(0, size - window), size + 1)
        last = max((match.end() for match in places), default=0)
        if last:
            return last
    return size


def split_of(text: str) -> str:
    """The split that a document falls into: by the SHA-256 of its text and nothing else.

    So neither the order of documents nor adding some ever moves one to another split.
    """
    point = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    if point < SHARES["test"]:
        return "test"
    if point < SHARES["test"] + SHARES["validation"]:
        return "validation"
    return "train"


def in_split(pieces: Iterable[Piece], split: str) -> Iterator[Piece]:
    """The documents that :func:`split_of` puts into ``split``, judged by their first piece."""
    inside = False
    for piece in pieces:
        if piece.starts:
            inside = split_of(piece.text) == split
        if inside:
            yield piece


def row_text(row: object, field: str, where: str) -> str | None:
    """The text of a row that came as a mapping; None where it is null. ``where`` names the row."""
    if not isinstance(row, dict):
        raise UserError(
            f"{where} is not an object with a field {quoted(field)}: write one a row, or give the "
            "text as .txt"
        )
    if field not in row:
        raise UserError(f"{where} has no field {quoted(field)} ({_present(row)}): {TEXT_FIELD_FIX}")
    return value_text(row[field], field, where)


def no_column(where: str, field: str, columns: Iterable[object]) -> UserError:
    """The error for a table without the text's column."""
    return UserError(
        f"{where} has no column {quoted(field)} ({_present(columns)}): {TEXT_FIELD_FIX}"
    )


def _present(names: Iterable[object]) -> str:
    return f"it has: {listed([quoted(name) for name in islice(names, 6)]) or 'none'}"


def value_text(text: object, field: str, where: str) -> str | None:
    """The value of a row's field or column as a document; None where it is null."""
    if text is None:
        return None
    if not isinstance(text, str):
        kind = type(text).__name__
        raise UserError(f"{where}: the field {quoted(field)} is {kind}, not text: {TEXT_FIELD_FIX}")
    if _HALF_PAIR.search(text):
        raise UserError(
            f"{where}: the field {quoted(field)} has half of a surrogate pair: remove it"
        )
    return normal_text(text)


def normal_text(text: str) -> str:
    """``text`` without byte-order marks and with ``\\n`` for Windows line ends."""
    return without_marks(text.replace("\r\n", "\n"))


def without_marks(text: str) -> str:
    """``text`` without the byte-order marks before its lines: files that were joined have several.

    Inside a line the character is a part of the text.
    """
    return _MARKS.sub("", text) if MARK in text else text


def shown(name: object) -> str:
    """A name for a message: as it is, or quoted where it holds line breaks or is not UTF-8."""
    text = shortened(str(name), LONGEST_NAME)
    return text if text.isprintable() else repr(text)


def listed(names: Sequence[str]) -> str:
    """The first names, so that a line holds them: ``a.txt, b.txt, …``."""
    first = [shortened(shown(name), 60) for name in names[:5]]
    return ", ".join([*first, "…"] if len(names) > len(first) else first)
