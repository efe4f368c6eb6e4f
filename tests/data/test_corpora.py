"""Opening a corpus by what a user calls it, and reading files."""

import hashlib
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumenspark.data.corpora import SPLITS, Corpus, open_corpus
from lumenspark.errors import UserError


def write(folder: Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def write_rows(path: Path, rows: list[str | None], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: pa.array(rows, pa.string())}), path, row_group_size=3)
    else:
        path.write_text("".join(json.dumps({column: row}) + "\n" for row in rows))


def documents(source: str, split: str, **options: str) -> list[str]:
    found: list[str] = []
    for piece in open_corpus(source, **options).pieces(split):  # type: ignore[arg-type]
        if piece.starts:
            found.append("")
        found[-1] += piece.text
    return found


def everything(source: str) -> dict[str, list[str]]:
    return {split: documents(source, split) for split in SPLITS}


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", r"no file or folder \./nowhere: check the path"),
        ("texts/nowhere.txt", r"no file or folder texts/nowhere\.txt: check the path"),
        ("nowhere", "no corpus 'nowhere': give a file or folder, auto, tales"),
    ],
)
def test_what_is_no_corpus_is_refused_with_what_was_looked_for(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_corpus(source)


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"python-docs/train.txt": "mine"})
    monkeypatch.chdir(tmp_path)
    assert documents("python-docs", "train") == ["mine"]


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layout 'wiki': choose one of auto, plain, wikitext"):
        open_corpus(str(tmp_path), layout="wiki")


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, {"photo.jpg": "", ".hidden/train.txt": "x"})
    with pytest.raises(UserError, match=r"no text in .*: supported are \.txt, \.md"):
        open_corpus(source)


# --- named splits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "validation.txt", "test.txt"),
        ("wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"),
        ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
        ("train/a.md", "val/a.md", "test/a.md"),
        ("train-00000-of-00001.txt", "dev.txt", "test_0.txt"),
        ("data/train.txt", "data/val.txt", "data/test.txt"),
    ],
)
def test_splits_are_named_by_files_or_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = write(tmp_path, dict(zip(names, SPLITS, strict=True)) | {"README.md": "about"})
    assert everything(source) == {split: [split] for split in SPLITS}


def test_a_title_with_a_split_in_it_is_refused_with_what_it_looks_like(tmp_path: Path) -> None:
    source = write(tmp_path, {"train-journeys.txt": "1", "the-test-of-time.txt": "2", "a.txt": "3"})
    with pytest.raises(UserError, match=r"2 files look as if .* \(the-test-of-time\.txt, train-jo"):
        open_corpus(source)
    named = open_corpus(f"{source}/train-journeys.txt")  # there is no other text to be held out
    assert [piece.text for split in SPLITS for piece in named.documents(split)] == ["1"]


def test_a_missing_split_says_which_names_are_looked_for(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path, {"train.txt": "x", "test.txt": "y"}))
    message = r"no validation split, only train, test: name a file .* validation\.txt or valid\.txt"
    with pytest.raises(UserError, match=message):
        list(corpus.pieces("validation"))
    with pytest.raises(UserError, match="no split 'dev'"):
        list(corpus.pieces("dev"))


@pytest.mark.parametrize("layout", ["plain", "wikitext"])
def test_a_named_file_comes_back_byte_for_byte(
    tmp_path: Path, articles_text: str, layout: str
) -> None:
    content = articles_text * 300 + "é\n\u2028\x85 a\rb \ufeff end\r"
    source = write(tmp_path, {"train.txt": content})
    corpus = open_corpus(source, layout=layout)
    assert len(list(corpus.pieces("train"))) > 1
    assert corpus.text("train").encode() == content.encode()


def test_documents_are_kept_apart_in_the_text_of_a_split(tmp_path: Path) -> None:
    source = write(tmp_path, {"test/a.txt": "one", "test/b.txt": "two\n", "test/c.txt": "three"})
    assert open_corpus(source).text("test") == "one\ntwo\nthree"


def test_config_names_a_folder_inside(tmp_path: Path) -> None:
    source = write(tmp_path, {"big/train.txt": "big", "small/train.txt": "small"})
    assert documents(source, "train", config="small") == ["small"]


# --- splits by hash and by position ------------------------------------------------------------


def test_unnamed_documents_are_divided_by_hash_whatever_their_order(tmp_path: Path) -> None:
    rows: list[str | None] = [f"document {i}" for i in range(300)]
    write_rows(tmp_path / "a" / "x.jsonl", rows)
    write_rows(tmp_path / "b" / "x.jsonl", [*rows[::-1], *(f"new {i}" for i in range(100))])
    one, more = everything(str(tmp_path / "a")), everything(str(tmp_path / "b"))
    assert sorted(chain(*one.values())) == sorted(filter(None, rows))
    for split in SPLITS:
        assert len(one[split]) > 0
        assert set(one[split]) <= set(more[split])


def test_a_single_book_is_divided_by_position_at_line_breaks(tmp_path: Path) -> None:
    book = "".join(f"This is line {i} of the bôôk.\n" for i in range(5000))
    source = write(tmp_path, {"book.txt": book})
    parts = [open_corpus(source).text(split) for split in SPLITS]
    assert "".join(parts) == book
    assert all(part.endswith("\n") for part in parts)
    shares = [len(part) / len(book) for part in parts]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.001)
    write_rows(tmp_path / "rows" / "book.jsonl", [book])
    assert [open_corpus(str(tmp_path / "rows")).text(split) for split in SPLITS] == parts


@pytest.mark.parametrize("unit", ["word ", "水"])
def test_a_book_of_one_line_is_divided_between_words_or_characters(
    tmp_path: Path, unit: str
) -> None:
    source = write(tmp_path, {"book.txt": unit * 40_000})
    parts = [open_corpus(source).text(split) for split in SPLITS]
    assert "".join(parts) == unit * 40_000
    assert all(part and len(part) % len(unit) == 0 for part in parts)


def test_a_short_text_says_how_splits_come_about(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path, {"a.txt": "document 0"}))
    with pytest.raises(UserError, match=r"no text in the test split .* 5% of the documents"):
        list(corpus.pieces("test"))


# --- the WikiText layout -----------------------------------------------------------------------


def hub_rows(text: str) -> list[str | None]:
    """Rows as in the hub's WikiText sets: a line each, blank ones emptied."""
    return [line if line.strip() else "" for line in text.splitlines(keepends=True)]


def test_the_layout_is_recognised_or_named(tmp_path: Path, articles_text: str) -> None:
    source = write(tmp_path / "wiki", {"train.txt": articles_text})
    assert open_corpus(source).layout == "wikitext"
    assert len(documents(source, "train")) == 2
    assert documents(source, "train", layout="plain") == [articles_text]
    prose = write(tmp_path / "prose", {"train.txt": "\n1 = 2 = \n\nNo.\n"})
    assert open_corpus(prose).layout == "plain"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_downloaded_hub_rows_give_the_published_file(
    tmp_path: Path, articles_text: str, suffix: str
) -> None:
    rows = hub_rows(articles_text)
    write_rows(tmp_path / f"train-00000-of-00002.{suffix}", rows[:9])  # inside an article
    write_rows(tmp_path / f"train-00001-of-00002.{suffix}", rows[9:])
    corpus = open_corpus(str(tmp_path))
    assert corpus.layout == "wikitext"
    assert corpus.text("train") == articles_text
    assert len(documents(str(tmp_path), "train")) == 2


@pytest.mark.parametrize(("split", "sha256"), [("validation", "4cd0f687"), ("test", "173c87a5")])
def test_canonical_wikitext_2(wikitext_2: Path, tmp_path: Path, split: str, sha256: str) -> None:
    corpus = open_corpus(str(wikitext_2))
    assert corpus.layout == "wikitext"
    assert len(documents(str(wikitext_2), split)) == 60
    text = corpus.text(split)
    assert hashlib.sha256(text.encode()).hexdigest().startswith(sha256)
    write_rows(tmp_path / f"{split}.parquet", hub_rows(text))
    assert open_corpus(str(tmp_path)).text(split) == text


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_row_is_a_document_and_null_or_empty_is_none(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path / f"train.{suffix}", ["one\ntwo", None, "", "three"] * 2, "content")
    source = str(tmp_path)
    assert documents(source, "train", text_field="content") == ["one\ntwo", "three"] * 2


# --- what cannot be read -----------------------------------------------------------------------


def refused(source: str, **options: str) -> str:
    with pytest.raises(UserError) as refusal:
        documents(source, "train", **options)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "lines"), [("train.txt", 2), ("train.txt", 30_000), ("book.txt", 30_000)]
)
def test_bytes_that_are_not_utf8_are_located(tmp_path: Path, name: str, lines: int) -> None:
    good = "naïve\n".encode() * lines
    source = write(tmp_path, {name: good + b"caf\xe9 noir\n" + good})
    assert refused(source) == (
        f"{tmp_path}/{name}, line {lines + 1}: byte 0xe9 at offset {len(good) + 3} is not UTF-8: "
        "save the file as UTF-8"
    )


def test_a_character_cut_off_at_the_end_is_located(tmp_path: Path) -> None:
    source = write(tmp_path, {"train.txt": b"x" * 65535 + "é".encode() + "é".encode()[:1]})
    assert "line 1: byte 0xc3 at offset 65537 is not UTF-8" in refused(source)


@pytest.mark.parametrize("name", ["train.txt", "book.txt", "train.jsonl", "train.parquet"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".txt":
        path.write_text("a line\n" * 30_000)
    else:
        write_rows(path, ["a row"])
    reads: tuple[Callable[[Corpus], object], ...] = (
        lambda corpus: corpus.digest(),
        lambda corpus: corpus.size("train"),
        lambda corpus: corpus.text("train"),
    )
    for read in reads:
        corpus = open_corpus(str(tmp_path))
        path.rename(tmp_path / "away")
        with pytest.raises(UserError, match=rf"the file {path} cannot be read \(.*: make it reada"):
            read(corpus)
        (tmp_path / "away").rename(path)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    source = write(tmp_path, {"train.txt": "x", "test.txt": ""})
    assert refused(source) == f"the file {tmp_path}/test.txt is empty: fill it or remove it"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{'text': 1}", "line 3 is not JSON: Expecting property name"),
        (b"[1]", "line 3 is not an object with a field 'text'"),
        (b'{"body": "x", "id": 1}', "line 3 has no field 'text' (it has: 'body', 'id'): name"),
        (b'{"text": 7}', "line 3: the field 'text' is int, not text"),
        (b'{"text": "\\ud800"}', "line 3: the field 'text' has a lone surrogate"),
        (b'{"text": "\xff"}', "line 3: byte 0xff at offset 28 is not UTF-8"),
    ],
)
def test_a_bad_line_of_jsonl_is_located(tmp_path: Path, line: bytes, message: str) -> None:
    source = write(tmp_path, {"train.jsonl": b'{"text": "good"}\n\n' + line + b"\n"})
    assert f"{tmp_path}/train.jsonl, {message}" in refused(source)


def test_a_missing_column_is_named_with_those_present(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", ["x"], "content")
    assert refused(str(tmp_path)) == (
        f"{tmp_path}/train.parquet has no column 'text' (it has: 'content'): "
        "name the right one with --corpus.text-field"
    )


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    source = write(tmp_path, {"train.parquet": "not parquet at all"})
    assert f"the file {tmp_path}/train.parquet cannot be read (Parquet magic" in refused(source)


# --- digests -----------------------------------------------------------------------------------


def test_the_digest_is_that_of_names_contents_and_treatment(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train.txt": "one", "test.txt": "two"}
    first = open_corpus(write(tmp_path / "a", files)).digest()
    assert open_corpus(write(tmp_path / "b", files)).digest() == first
    assert open_corpus(write(tmp_path / "c", files | {"test.txt": "Two"})).digest() != first
    assert open_corpus(write(tmp_path / "d", files | {"dev.txt": "x"})).digest() != first
    assert open_corpus(str(tmp_path / "a"), layout="wikitext").digest() != first
    assert open_corpus(str(tmp_path / "a"), text_field="body").digest() != first


def test_files_are_hashed_once(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path, {"train.txt": "one"}))
    first = corpus.digest()
    (tmp_path / "train.txt").unlink()
    assert corpus.digest() == first


def test_the_language_of_local_text_is_not_known(tmp_path: Path) -> None:
    assert open_corpus(write(tmp_path, {"train.txt": "eins"})).language is None
