"""Files as publishers and people leave them: compressed, marked, tabular, cloned, half changed."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from lumenspark.data.corpora import clean_articles, open_corpus
from lumenspark.data.documents import SPLITS
from lumenspark.data.local_files import LocalFiles
from lumenspark.data.tokens import prepare
from lumenspark.errors import UserError


def write(folder: Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def documents(source: str, split: str = "train", **options: str) -> list[str]:
    found: list[str] = []
    for piece in open_corpus(source, **options).pieces(split):  # type: ignore[arg-type]
        found += [""] * piece.starts
        found[-1] += piece.text
    return found


# --- kinds -------------------------------------------------------------------------------------

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    "GZ": gzip.compress,
}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_files_give_what_is_in_them(tmp_path: Path, ending: str) -> None:
    book = "".join(f"Line {i} of a böok.\r\n" for i in range(9000)).encode()
    pack = COMPRESSIONS[ending]
    plain, packed = tmp_path / "plain" / "book.txt", tmp_path / "packed" / f"book.txt.{ending}"
    rows = b'{"text": "a"}\n{"text": "b\\n"}'
    write(tmp_path, {str(plain): book, str(packed): pack(b"\xef\xbb\xbf" + book)})
    write(tmp_path / "rows", {f"train.jsonl.{ending}": pack(rows)})
    for split in SPLITS:  # a book is divided by position, compressed or not
        assert documents(str(packed), split) == documents(str(plain), split)
    assert documents(str(tmp_path / "rows")) == ["a", "b\n"]


def test_the_other_half_of_a_file_that_is_there_twice_is_left_out(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path, {"a.txt": "x", "a.txt.gz": gzip.compress(b"x")}))
    assert [path.name for path in corpus.files] == ["a.txt"]  # type: ignore[attr-defined]
    assert corpus.left_out == ("a.txt.gz",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", 'id,text\r\n1,"one, ""two""\r\nthree"\r\n\r\n2,four\r\n3,\r\n'),
        ("train.tsv", 'text\tid\n"one, ""two""\nthree"\t1\nfour\t2\n'),
        ("train.json", '[{"text": "one, \\"two\\"\\nthree"},\n {"id": 7, "text": "four"}]\n'),
        ("train.json", '{"text": "one, \\"two\\"\\nthree"}\n{"text": null}\n{"text": "four"}'),
        ("train.NDJSON", '{"text": "one, \\"two\\"\\r\\nthree"}\n{"text": "four"}\n'),
    ],
)
def test_tables_and_lists_give_their_column(tmp_path: Path, name: str, content: str) -> None:
    for mark in ("", "\ufeff"):
        assert documents(write(tmp_path, {name: mark + content})) == ['one, "two"\nthree', "four"]


def test_a_field_may_be_large_and_a_list_longer_than_a_chunk(tmp_path: Path) -> None:
    texts = ["long " * 60_000, *(f"row {i}" for i in range(5000)), "ü" * 200_000]
    write(tmp_path / "csv", {"train.csv": "text\n" + "".join(f'"{text}"\n' for text in texts)})
    write(tmp_path / "json", {"train.json": json.dumps([{"text": text} for text in texts])})
    assert documents(str(tmp_path / "csv")) == texts
    assert documents(str(tmp_path / "json")) == texts


CUT_SHORT = gzip.compress(b"text", mtime=0)[:-9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "id,text\n1,a, b\n", r"train\.csv, line 2: 3 values, .* 2 columns: put"),
        ("train.csv", 'text\n"open\n', r"train\.csv, after row \d+, cannot be read \(unexpected"),
        ("train.csv", "body\nx\n", r"no column 'text' \(it has: 'body'\).*--corpus\.text-field"),
        ("train.json", '[{"text": "a"}, {"text": 1}]', r"train\.json, row 2: the field 'text' is"),
        ("train.json", '[{"text": "a"}', r"train\.json, row 2 is missing: the file ends inside"),
        ("train.json", '[{"text": "a"}, nope]', r"train\.json, row 2 is not JSON: Expecting val"),
        ("train.json", '[{"text": "a"}]\n[{"text": "b"}]', r"row 2 comes after the end of the"),
        ("train.json", '{\n"text": "a"\n}', r"train\.json, line 1 is not JSON"),
        ("train.jsonl", '{"body": 1}', r"no field 'text'.*--corpus\.text-field"),
        ("train.txt", "text".encode("utf-16"), r"train\.txt looks like UTF-16 or UTF-32: save"),
        ("train.csv", "text\n".encode("utf-16"), r"train\.csv looks like UTF-16"),
        ("train.txt", "text".encode("utf-16-le"), r"train\.txt has many zero bytes, as in UTF-16"),
        ("train.txt.gz", b"no gzip", r"train\.txt\.gz cannot be read \(Not a gzipped file"),
        ("train.txt.gz", CUT_SHORT, r"cannot be read \(Compressed file ended"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        documents(write(tmp_path, {name: content}))


def test_a_dataset_saved_to_disk_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = {"text": [f"document {i}" for i in range(2500)], "id": list(range(2500))}
    whole = Dataset.from_dict(rows)
    DatasetDict({"train": whole, "test": whole.select([7, 3])}).save_to_disk(tmp_path / "both")
    corpus = open_corpus(str(tmp_path / "both"))
    assert corpus.splits() == ("train", "test")
    assert documents(str(tmp_path / "both")) == rows["text"]
    assert documents(str(tmp_path / "both"), "test") == ["document 7", "document 3"]
    whole.save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-0123.arrow").write_bytes(b"what map() left")
    found = [text for split in SPLITS for text in documents(str(tmp_path / "one"), split)]
    assert sorted(found) == sorted(rows["text"])


# --- byte-order marks and line ends ------------------------------------------------------------


def test_a_byte_order_mark_changes_nothing(tmp_path: Path, articles_text: str) -> None:
    book = "".join(f"Line {i} of a book.\n" for i in range(9000))
    files: dict[str, str | bytes] = {
        "wiki/test.txt": articles_text,
        "short/a.txt": "a short text",
        "book/b.md": book,
        "rows/c.jsonl": "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(60)),
    }
    marked: dict[str, str | bytes] = {
        name: "\ufeff" + str(content) for name, content in files.items()
    }
    write(tmp_path / "without", files)
    write(tmp_path / "with", marked)
    for name in ("wiki", "short", "book", "rows"):
        one, two = (open_corpus(str(tmp_path / kind / name)) for kind in ("without", "with"))
        assert one.layout == two.layout == ("wikitext" if name == "wiki" else "plain")
        assert one.digest() == two.digest()
        for split in one.splits():
            pieces = [list(corpus.documents(split)) for corpus in (one, two)]
            assert pieces[0] == pieces[1]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_files_that_were_joined_have_several_marks(tmp_path: Path, line_end: str) -> None:
    """As `cat` makes them; a mark may lie anywhere in a chunk, or be cut by its end."""
    parts = [f"part {i}, \ufeffa joiner inside" + "é" * i + line_end for i in range(9000)]
    joined = "\ufeff\ufeff" + "\ufeff".join(parts)
    rows = [json.dumps({"text": text}) for text in ("\ufeffa\n\ufeffb", "c")]
    packed = "".join(f"\ufeff{part}" for part in parts[:2]).encode()
    write(tmp_path / "joined", {"train/a.txt": joined, "train/b.jsonl": "\n".join(rows)})
    write(tmp_path / "joined", {"test.txt.gz": gzip.compress(packed)})
    corpus = open_corpus(str(tmp_path / "joined"))
    expected = "".join(parts).replace("\r\n", "\n")
    assert corpus.text("train") == expected + "a\nb\nc"
    assert corpus.text("test") == "".join(parts[:2]).replace("\r\n", "\n")


def test_windows_line_ends_are_line_ends(tmp_path: Path, articles_text: str) -> None:
    long = articles_text * 2000  # a chunk ends between the two characters somewhere
    write(tmp_path / "unix", {"train.txt": long, "test.txt": "a\rb\n"})
    write(tmp_path / "dos", {"train.txt": long.replace("\n", "\r\n"), "test.txt": "a\rb\r\n"})
    unix, dos = (open_corpus(str(tmp_path / name)) for name in ("unix", "dos"))
    assert dos.layout == unix.layout == "wikitext"
    assert dos.text("train") == unix.text("train") == long
    assert dos.text("test") == "a\rb\n"  # one alone is no line end of Windows
    one, two = (clean_articles(c.documents("train"), "wikitext", "drop") for c in (unix, dos))
    assert list(one) == list(two)
    sizes = [prepare(corpus, vocab_size=300).splits["train"].byte_count for corpus in (unix, dos)]
    assert sizes[0] == sizes[1]


# --- what is left out --------------------------------------------------------------------------


def left_out(source: str) -> str | None:
    return open_corpus(source).describe_left_out()


def test_what_is_left_out_is_said_with_names_and_counts(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train.txt": "x", "valid.txt": "y", "notes.txt": "z"}
    files |= {f"{name}.pdf": "" for name in "abcdef"} | {".hidden": "", ".git/config.txt": ""}
    source = write(tmp_path, files)
    assert left_out(source) == "left out: 7 files (a.pdf, b.pdf, c.pdf, d.pdf, e.pdf, …)"
    said: list[str] = []
    prepare(open_corpus(source), vocab_size=300, report=said.append)
    prepare(open_corpus(source), vocab_size=300, report=said.append)  # from the cache
    assert said.count("left out: 7 files (a.pdf, b.pdf, c.pdf, d.pdf, e.pdf, …)") == 2
    assert left_out(write(tmp_path / "all", {"a.txt": "x"})) is None


def test_what_is_left_out_is_said_before_a_split_is_missed(tmp_path: Path) -> None:
    source = write(tmp_path, {"train.txt": "x", "checking.txt": "y"})
    said: list[str] = []
    with pytest.raises(UserError, match="no validation split"):
        prepare(open_corpus(source), needed=("train", "validation"), report=said.append)
    assert said == ["left out: 1 file (checking.txt)"]


def test_a_cloned_data_set_is_read_without_what_describes_it(tmp_path: Path) -> None:
    about = ["README.md", "LICENSE.txt", "LICENCE", "CHANGELOG.md", "NOTICE.txt", "CITATION.cff"]
    about += ["README_zh.md", "license-mit.txt", "dataset_infos.json", "script.py"]
    texts = ["data/a.txt", "license-to-kill.txt", "notices-of-death.md", "reader.md"]
    source = write(tmp_path, dict.fromkeys([*about, *texts, ".gitattributes"], "text\n"))
    corpus = open_corpus(source)
    assert isinstance(corpus, LocalFiles)
    assert [str(path.relative_to(source)) for path in corpus.files] == texts
    assert sorted(corpus.left_out) == sorted(about)


def test_readmes_alone_are_text(tmp_path: Path) -> None:
    source = write(tmp_path, {"README.md": "one\n", "b/README.md": "two\n"})
    texts = [text for split in SPLITS for text in open_corpus(source).documents(split)]
    assert sorted(piece.text for piece in texts) == ["one\n", "two\n"]
    assert open_corpus(f"{source}/README.md").describe_left_out() is None


def test_json_beside_text_is_read_where_it_holds_text(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"a.txt": "x", "b.json": '[{"text": "y"}]'}
    files["stats.json"] = '{"n": 1}'
    corpus = open_corpus(write(tmp_path, files))
    assert [path.name for path in corpus.files] == ["a.txt", "b.json"]  # type: ignore[attr-defined]
    assert corpus.left_out == ("stats.json",)
    with pytest.raises(UserError, match=r"no field 'text'"):
        open_corpus(write(tmp_path / "alone", {"stats.json": '{"n": 1}'}))


def test_a_folder_of_other_kinds_says_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    source = write(tmp_path, {"a.zip": "", "b.docx": ""})
    with pytest.raises(UserError, match=r"only a\.zip, b\.docx\): .*unpack archives and save"):
        open_corpus(source)


def test_a_pointer_of_git_lfs_is_no_text(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
    with pytest.raises(UserError, match=r"train\.txt is a Git LFS pointer.*git lfs pull"):
        open_corpus(write(tmp_path, {"train.txt": pointer, "test.txt": "x"}))


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "store", {"x.txt": "learn"})
    write(tmp_path / "corpus", {"test.txt": "held"})
    (tmp_path / "corpus" / "train").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store")
    assert documents(str(tmp_path / "corpus")) == ["learn"]


# --- what changes ------------------------------------------------------------------------------


def test_text_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, own_cache: Path) -> None:
    source = write(tmp_path, {"train.txt": "some text\n" * 99, "test.txt": "x"})
    corpus = open_corpus(source)
    corpus.digest()
    write(tmp_path, {"train.txt": "other text\n" * 99})
    with pytest.raises(UserError, match=r"train\.txt changed while it was read: start again"):
        prepare(corpus, vocab_size=300)
    assert os.listdir(own_cache / "tokens") == []  # noqa: PTH208


def test_a_split_that_is_missing_is_said_before_anything_is_tokenised(tmp_path: Path) -> None:
    bad_at_the_end = b"text\n" * 20_000 + b"\xff"  # reading all of it would say that
    source = write(tmp_path, {"train.txt": bad_at_the_end, "test.txt": "x"})
    said: list[str] = []
    with pytest.raises(UserError, match=r"no validation split, only train, test: name a file"):
        prepare(open_corpus(source), needed=("train", "validation"), report=said.append)
    short = open_corpus(write(tmp_path / "short", {"a.txt": "short"}))
    with pytest.raises(UserError, match=r"no text in the validation split"):
        prepare(short, needed=("train", "validation"), report=said.append)
    assert said == []
