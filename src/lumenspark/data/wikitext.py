"""The WikiText layout: articles under `` = Title = `` lines, sections under `` = = Name = = ``.

Stephen Merity et al., Pointer Sentinel Mixture Models, 2016 (arXiv 1609.07843).
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, pairwise
from operator import itemgetter

from lumenspark.data.documents import PIECE, Piece, cut

_TITLE = re.compile(r" = (?!= )\S.* = \r?\n?")
_HEADING = re.compile(r" ((?:= ){2,})(?!= )\S.* \1\r?\n?")
_LINE_END = re.compile(r"(?<=\n)")
_number = itemgetter(0)


def looks_like_wikitext(start: str) -> bool:
    """Whether a text with this start is in the layout: its first non-blank line is a title."""
    lines = _LINE_END.split(start)
    first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    return any(_TITLE.fullmatch(line) for line in lines[first : first + 1]) and not any(
        line.strip() for line in lines[first + 1 : first + 2]
    )


def lines_from_rows(rows: Iterable[str]) -> Iterator[str]:
    """The published file, from the rows on the hub: one line per row, blank lines as empty rows.

    A row of several lines (such as a whole article) is kept, with a line break at its end.
    """
    for row in rows:
        if not row:
            yield " \n"
        else:
            yield row if row.endswith("\n") else row + "\n"


def articles(chunks: Iterable[str], size: int = PIECE) -> Iterator[Piece]:
    """Cut a WikiText into articles; the joined pieces equal the text.

    An article starts at the blank line before its title. A title has a blank line (or the start of
    the text) before it and one after it, unlike table rows and formulas of the same form. Text
    before the first title is a document too.
    """
    numbered = _article_numbers(_lines(chunks, size))
    for _, article in groupby(numbered, key=_number):
        yield from cut((line for _, line in article), size)


def clean_articles(
    pieces: Iterable[Piece], layout: str, headings: str, size: int = PIECE
) -> Iterator[Piece]:
    """Documents as used for training and scored by the card's protocol.

    With layout ``wikitext`` and headings ``drop``, title lines, section headings and blank lines
    are dropped, and so are documents without other lines. Otherwise documents are unchanged.
    """
    if layout != "wikitext" or headings != "drop":
        yield from pieces
        return
    for _, document in groupby(_document_numbers(pieces), key=_number):
        lines = _lines((text for _, text in document), size)
        yield from cut(_prose(lines), size)


def _prose(lines: Iterable[str]) -> Iterator[str]:
    """The lines of an article without title, headings and blank lines."""
    words = (line for line in lines if line.strip())
    first = next(words, "")
    if not _TITLE.fullmatch(first) and not _HEADING.fullmatch(first):
        yield first
    yield from (line for line in words if not _HEADING.fullmatch(line))


def _lines(chunks: Iterable[str], size: int) -> Iterator[str]:
    """Lines with line breaks; lines over ``size`` characters in several parts."""
    rest = ""
    for chunk in chunks:
        *whole, rest = _LINE_END.split(rest + chunk)
        yield from whole
        if len(rest) > size:
            *parts, last = cut([rest], size)
            yield from (part.text for part in parts)
            rest = last.text
    if rest:
        yield rest


def _article_numbers(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each line with its article number; the blank line before a title belongs to the article."""
    number, words, before = 0, False, ""
    for line, after in pairwise(chain(lines, [""])):
        alone = not before.strip() and not after.strip()
        if words and alone and _TITLE.fullmatch(line):
            number, words = number + 1, False
        yield number, before
        words = words or bool(line.strip())
        before = line
    yield number, before


def _document_numbers(pieces: Iterable[Piece]) -> Iterator[tuple[int, str]]:
    number = 0
    for piece in pieces:
        number += piece.starts
        yield number, piece.text
