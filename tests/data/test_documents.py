"""Cutting text into pieces, and documents into splits."""

import sys
import unicodedata
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lumenspark.data.documents import Piece, cut, in_split, split_of
from lumenspark.data.tokenizer import train_tokenizer
from lumenspark.data.wikitext import articles, clean_articles

# letters that NFKC composes, decomposes or turns into a space; every kind of whitespace
TRICKY = "abc é e\u0301 \u0301 ﬁ ½ ² ﷺ ¨ ´ Å \u212b 가 \u1100\u1161 ' 's 12 . ,"
SPACES = ["\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85", "\u2028", "\u200b"]
texts = st.lists(st.sampled_from([*TRICKY, *SPACES, "  ", "word"]), max_size=80).map("".join)


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer([__doc__ or "", TRICKY * 3, "word 's  \n\n  word ,\x1c" * 9], 400)


def ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False).ids


def chunked(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@given(texts, st.integers(1, 30), st.integers(1, 30))
def test_pieces_are_the_text(text: str, size: int, chunk: int) -> None:
    pieces = list(cut(chunked(text, chunk), size))
    assert "".join(piece.text for piece in pieces) == text
    assert all(0 < len(piece.text) <= size for piece in pieces)
    assert [piece.starts for piece in pieces] == [i == 0 for i in range(len(pieces))]
    assert [piece.ends for piece in pieces] == [i == 0 for i in range(len(pieces))][::-1]


@given(texts, st.integers(8, 30))
def test_pieces_have_the_ids_of_the_whole(text: str, size: int) -> None:
    pieces = [piece.text for piece in cut([text], size)]
    soft = all(
        after[0].isspace() and not before[-1].isspace() for before, after in pairwise(pieces)
    )
    if soft:  # else there was a run of more than `size` characters without a place to cut
        assert [i for piece in pieces for i in ids(piece)] == ids(text)


def test_prose_has_the_same_ids_in_pieces_of_any_size() -> None:
    text = "".join(f"  Ｗide ﬁsh № {i},\u00a0 ½ of\u3000 \n\n\tit's e\u0301! " for i in range(200))
    for size in (40, 64, 100, 1000):
        pieces = list(cut(chunked(text, 7), size))
        assert len(pieces) > len(text) // size / 2
        assert [i for piece in pieces for i in ids(piece.text)] == ids(text)


def test_no_character_but_whitespace_becomes_whitespace_at_its_end() -> None:
    """What makes it safe to cut before whitespace: no run of it can begin earlier after NFKC."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if not character.isspace() and not 0xD800 <= code < 0xE000:
            assert not unicodedata.normalize("NFKC", character)[-1:].isspace()


def test_text_without_whitespace_is_cut_on_a_character() -> None:
    pieces = [piece.text for piece in cut(["水" * 25], 10)]
    assert pieces == ["水" * 10, "水" * 10, "水" * 5]


def test_splits_are_decided_by_the_text_alone_in_the_promised_shares() -> None:
    documents = [f"document {i}" for i in range(4000)]
    found = dict.fromkeys(("train", "validation", "test"), 0)
    for document in documents:
        found[split_of(document)] += 1
    assert found["train"] == pytest.approx(3600, abs=80)
    assert found["validation"] == pytest.approx(200, abs=60)
    assert found["test"] == pytest.approx(200, abs=60)


def test_all_pieces_of_a_document_fall_into_one_split() -> None:
    pieces = [piece for i in range(50) for piece in cut([f"document {i} " * 9], 40)]
    parts = {split: list(in_split(pieces, split)) for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(pieces)
    for part in parts.values():
        assert sum(piece.starts for piece in part) == sum(piece.ends for piece in part)


def test_articles_begin_at_the_blank_line_before_their_title(articles_text: str) -> None:
    oak, elm = articles([articles_text])
    assert oak.text + elm.text == articles_text
    assert elm.text.startswith(" \n = Elm = \n")


@given(size=st.integers(70, 300), chunk=st.integers(1, 400))
def test_articles_do_not_depend_on_how_the_text_comes(
    articles_text: str, size: int, chunk: int
) -> None:
    pieces = list(articles(chunked(articles_text, chunk), size))
    assert "".join(piece.text for piece in pieces) == articles_text
    starts = [i for i, piece in enumerate(pieces) if piece.starts]
    assert len(starts) == 2
    assert "".join(piece.text for piece in pieces[starts[1] :]).startswith(" \n = Elm = ")


def test_cleaning_leaves_out_titles_headings_and_blank_lines_only(articles_text: str) -> None:
    cleaned = list(clean_articles(articles([articles_text]), "wikitext", "drop"))
    assert cleaned == [
        Piece(
            " The oak is a tree .\n It bears acorns , and its wood is hard .\n"
            " Ships were built of oak .\n Wine is kept in oak .\n"
        ),
        Piece(" The elm is a tree too .\n = 3 = \n is what remains when nothing else does .\n"),
    ]


@pytest.mark.parametrize("size", [70, 80, 100])
def test_a_long_article_is_cleaned_as_a_short_one(articles_text: str, size: int) -> None:
    whole = clean_articles(articles([articles_text]), "wikitext", "drop")
    parts = list(clean_articles(articles([articles_text], size), "wikitext", "drop", size))
    assert len(parts) > 2
    assert "".join(piece.text for piece in parts) == "".join(piece.text for piece in whole)


@pytest.mark.parametrize(("layout", "headings"), [("plain", "drop"), ("wikitext", "keep")])
def test_otherwise_nothing_is_left_out(articles_text: str, layout: str, headings: str) -> None:
    pieces = list(articles([articles_text]))
    assert list(clean_articles(pieces, layout, headings)) == pieces


def test_an_article_of_headings_alone_goes() -> None:
    text = " \n = A = \n \n = = B = = \n \n \n = C = \n \n words\n"
    assert list(clean_articles(articles([text]), "wikitext", "drop")) == [Piece(" words\n")]
