"""Documents, their pieces, and the train, validation and test splits. Text only."""

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
PIECE = 1 << 16  # characters; encoding takes about 250 bytes of memory per character
SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}

TEXT_FIELD_FIX = "name the right one with --corpus.text-field"
LONGEST_NAME = 400  # characters of a path in a message
MARK = "\ufeff"  # byte-order mark, which is not part of the text

_MARKS = re.compile(f"(?<![^\n]){MARK}+")  # at the start of a line
_HALF_PAIR = re.compile("[\ud800-\udfff]")
# \x1c to \x1f are whitespace to Python, but not to Unicode and the pre-tokenizers
_BEFORE_WHITESPACE = re.compile(r"\S(?=[^\S\x1c-\x1f])")


@dataclass(frozen=True)
class Piece:
    """A document, or part of a long one, which bounds memory."""

    text: str
    starts: bool = True
    """The first piece of its document."""
    ends: bool = True
    """The last piece of its document."""


class Corpus(ABC):
    """A corpus: documents in up to three splits. Subclasses define the source.

    Attributes:
        name: what :func:`.corpora.open_corpus` opens again: ``python-docs-3.11.7``,
            ``wikitext-2``, a path, a hub id; never ``auto``.
        layout: ``plain``, or ``wikitext`` (a document is an article, with its headings).
        hub_id: id of a hub dataset, else None.
        revision: resolved hub commit.
        config: hub configuration, or folder inside a local one.
        text_field: field or column with the text, in rows.
        license: as stated by the source, else None.
        language: ISO 639-1 code; None if the source names none or several.
        prompt: a prompt that suits the text.
        left_out: names of files, or of splits of a hub dataset (known after it was opened), that
            are not read.
        note: a sentence on how the text was chosen; None where the user named it.
    """

    name: str
    layout: str
    hub_id: str | None = None
    revision: str | None = None
    config: str | None = None
    text_field: str = "text"
    license: str | None = None
    language: str | None = None
    prompt: str = "The"
    left_out: tuple[str, ...] = ()
    note: str | None = None

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of everything that determines the documents."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits of the source; all three for a source without splits, which is divided."""

    def is_divided(self) -> bool:
        """Whether the source has no splits, and documents are assigned to splits here."""
        return False

    def file_count(self, split: str) -> int | None:
        """Number of files of the split; None for a source without files."""
        return None

    def check_unchanged(self) -> None:  # noqa: B027, most sources are immutable
        """Raise UserError if the text has changed since :meth:`digest`."""

    @abstractmethod
    def documents(self, split: str) -> Iterator[Piece]:
        """The documents of a split that is in ``splits()``.

        Raises:
            UserError: unreadable text. Never OSError, which is reserved for writers.
        """

    @abstractmethod
    def size(self, split: str) -> int | None:
        """Approximate bytes of text in the split; None if unknown without reading it."""

    def entropy(self, split: str) -> float | None:
        """Bits per byte that no model can go below, on average; None where it is unknown."""
        return None

    def pieces(self, split: str) -> Iterator[Piece]:
        """The raw documents of ``split``, long ones in several pieces.

        Raises:
            UserError: missing or empty split, or unreadable text.
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
        """The error message for a missing or empty split."""
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
            f"(if no file is named after a split, {SHARES[split]:.0%} of the documents go "
            f"to {split}, chosen by hash), or name a file {files}"
        )

    def describe_left_out(self) -> str | None:
        """One line on the files or splits that are not read; None if there are none."""
        if not self.left_out:
            return None
        count = len(self.left_out)
        noun, source = ("file", "") if self.hub_id is None else ("split", f" of {self.hub_id}")
        counted = f"{count:,} {noun}{'' if count == 1 else 's'}{source}"
        return f"left out: {counted} ({listed(self.left_out)})"

    def text_chunks(self, split: str) -> Iterator[str]:
        """The split as one raw text, in chunks; documents are separated by a line break.

        For a single local file the text equals the file, without byte-order marks and with
        ``\\n`` for Windows line ends. Training, scoring and byte counts use the same text.
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
    """Cut a document, given in chunks, into pieces of at most ``size`` characters.

    Cuts are before whitespace: pre-tokenizers of the GPT-2 kind never join a character with the
    whitespace after it, and NFKC never combines across it, so token ids are those of the whole
    document. Without whitespace in ``size`` characters the cut is after them.
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
    for window in (1024, size):  # nearly always found in the first window
        places = _BEFORE_WHITESPACE.finditer(text, max(0, size - window), size + 1)
        last = max((match.end() for match in places), default=0)
        if last:
            return last
    return size


def split_of(text: str) -> str:
    """The split of a document, from the SHA-256 of its text alone.

    Reordering or adding documents never moves another one to a different split.
    """
    point = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    if point < SHARES["test"]:
        return "test"
    if point < SHARES["test"] + SHARES["validation"]:
        return "validation"
    return "train"


def in_split(pieces: Iterable[Piece], split: str) -> Iterator[Piece]:
    """The documents whose first piece :func:`split_of` assigns to ``split``."""
    inside = False
    for piece in pieces:
        if piece.starts:
            inside = split_of(piece.text) == split
        if inside:
            yield piece


def row_text(row: object, field: str, where: str) -> str | None:
    """The text of a row, None if it is null. ``where`` names the row in errors."""
    if not isinstance(row, dict):
        raise UserError(
            f"{where} is not an object with a field {quoted(field)}: write one object per row, or "
            "use .txt"
        )
    if field not in row:
        raise UserError(f"{where} has no field {quoted(field)} ({_present(row)}): {TEXT_FIELD_FIX}")
    return value_text(row[field], field, where)


def no_column(where: str, field: str, columns: Iterable[object]) -> UserError:
    """The error for a table without the text column."""
    return UserError(
        f"{where} has no column {quoted(field)} ({_present(columns)}): {TEXT_FIELD_FIX}"
    )


def _present(names: Iterable[object]) -> str:
    return f"it has: {listed([quoted(name) for name in islice(names, 6)]) or 'none'}"


def value_text(text: object, field: str, where: str) -> str | None:
    """The document in a field or column; None if it is null."""
    if text is None:
        return None
    if not isinstance(text, str):
        kind = type(text).__name__
        raise UserError(f"{where}: the field {quoted(field)} is {kind}, not text: {TEXT_FIELD_FIX}")
    if _HALF_PAIR.search(text):
        raise UserError(f"{where}: the field {quoted(field)} has a lone surrogate: remove it")
    return normal_text(text)


def normal_text(text: str) -> str:
    """``text`` without byte-order marks and with ``\\n`` for Windows line ends."""
    return without_marks(text.replace("\r\n", "\n"))


def without_marks(text: str) -> str:
    """``text`` without byte-order marks at line starts, of which concatenated files have several.

    Inside a line the character is part of the text.
    """
    return _MARKS.sub("", text) if MARK in text else text


def shown(name: object) -> str:
    """A name for a message, quoted if it has line breaks or invalid UTF-8."""
    text = shortened(str(name), LONGEST_NAME)
    return text if text.isprintable() else repr(text)


def listed(names: Sequence[str]) -> str:
    """The first names that fit into a line: ``a.txt, b.txt, …``."""
    first = [shortened(shown(name), 60) for name in names[:5]]
    return ", ".join([*first, "…"] if len(names) > len(first) else first)
