"""Text that is damaged, foreign or meant to harm: a sentence or the text, and nothing else.

Whatever lies in a folder, reading it gives documents or a UserError that names the file, within
the test's time limit, and what is named after one split is never read as another.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumenspark.data.corpora import open_corpus
from lumenspark.data.documents import SPLITS
from lumenspark.data.split_names import split_by_name
from lumenspark.errors import UserError

HELD_OUT = "HELDOUT"
LONGEST_MESSAGE = 1500  # characters, with the paths of the tests' folders in it


def read_all(source: Path, **options: str) -> dict[str, str] | UserError:
    """Every split of a corpus as text, and all else that preparing asks of it; or the error."""
    try:
        corpus = open_corpus(str(source), **options)  # type: ignore[arg-type]
        corpus.digest()
        for split in corpus.splits():
            corpus.size(split)
        corpus.check_unchanged()
        return {
            split: "".join(piece.text for piece in corpus.documents(split))
            for split in corpus.splits()
        }
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert 10 < len(message) < LONGEST_MESSAGE
        return error


def check(source: Path, **options: str) -> dict[str, str] | UserError:
    """Read ``source``; no text that is marked as held out is in its train split."""
    found = read_all(source, **options)
    if isinstance(found, dict):
        assert HELD_OUT not in found.get("train", "")
        assert all(isinstance(text.encode(), bytes) for text in found.values())
    return found


# --- damaged bytes in every format -------------------------------------------------------------

LINES = [f"Line {i} says naïve things about {i * 7919} birds.\n" for i in range(12)]
RECORDS = [{"id": i, "text": line, "tags": ["a", {"b": None}]} for i, line in enumerate(LINES)]
TABLE = pa.table({"id": list(range(12)), "text": LINES})


def jsonl() -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def separated(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([["id", "text"], *([i, line] for i, line in enumerate(LINES))])
    return out.getvalue().encode()


def parquet(**options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(TABLE, out, row_group_size=5, **options)
    return out.getvalue()


def arrow(new: Callable[..., object]) -> bytes:
    out = io.BytesIO()
    with new(out, TABLE.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(TABLE, max_chunksize=5)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


FORMATS: dict[str, Callable[[], bytes]] = {
    "train.txt": lambda: "".join(LINES).encode(),
    "train.md": lambda: b"\xef\xbb\xbf" + "".join(LINES).encode(),
    "train.jsonl": jsonl,
    "train.ndjson": lambda: b"\xef\xbb\xbf" + jsonl(),
    "train.json": lambda: json.dumps(RECORDS, indent=1).encode(),
    "train.csv": lambda: separated(","),
    "train.tsv": lambda: separated("\t"),
    "train.parquet": parquet,
    "train.01.parquet": lambda: parquet(compression="zstd", use_dictionary=False),
    "train.arrow": lambda: arrow(pa.ipc.new_stream),
    "train.01.arrow": lambda: arrow(pa.ipc.new_file),
    "train.txt.gz": lambda: gzip.compress("".join(LINES).encode(), mtime=0),
    "train.jsonl.bz2": lambda: bz2.compress(jsonl()),
    "train.csv.xz": lambda: lzma.compress(separated(",")),
    "train.json.zst": lambda: zstd(json.dumps(RECORDS).encode()),
}


def damaged(data: bytes, dice: random.Random) -> bytes:
    """``data`` with one to three things done to it that disks, networks and people do."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        place, other = sorted(dice.randrange(len(changed) + 1) for _ in range(2))
        match dice.randrange(7):
            case 0:
                del changed[place:]
            case 1:
                del changed[place:other]
            case 2:
                changed[place:place] = changed[place:other]
            case 3:
                changed[place:other] = bytes(other - place)
            case 4:
                changed[place : place + 8] = dice.randbytes(8)
            case 5:
                changed[place:place] = dice.choice(ODD)
            case 6 if changed:
                place = min(place, len(changed) - 1)
                changed[place] ^= 1 << dice.randrange(8)
    return bytes(changed)


ODD = [
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b'"',
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"NaN",
    b"\r\n\r",
    b"\xef\xbb\xbf",
    b",\t;",
]


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_named(tmp_path: Path, name: str) -> None:
    whole = FORMATS[name]()
    (tmp_path / "test.txt").write_text(HELD_OUT)
    assert not isinstance(check_with(tmp_path, name, whole), UserError)
    dice = random.Random(name)
    refused = 0
    for _ in range(150):
        found = check_with(tmp_path, name, damaged(whole, dice))
        if isinstance(found, UserError):
            refused += 1
            assert name in str(found) or "train" in str(found)
    assert refused > 9


def check_with(folder: Path, name: str, data: bytes) -> dict[str, str] | UserError:
    (folder / name).write_bytes(data)
    return check(folder)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_or_of_another_kind_is_read_or_named(tmp_path: Path, name: str) -> None:
    whole = FORMATS[name]()
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        check_with(tmp_path, name, whole[:length])
    for other in FORMATS.values():
        check_with(tmp_path, name, other())


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".json", ".csv"])
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    check_with(folder, f"train{ending}", data)


# training in the same process, in another test, lets the processor drop the smallest numbers
NUMBERS = st.floats(allow_subnormal=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "a", "\ud800"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
@settings(max_examples=80, deadline=None)
@given(value=JSON)
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ending: str, value: object
) -> None:
    folder = tmp_path_factory.mktemp("json")
    check_with(folder, f"train{ending}", json.dumps(value).encode())


# --- rows that parsers trip over ---------------------------------------------------------------

GOOD = '{"text": "good"}'
ROWS = {
    "deep list": '{"text": "x", "a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep object": '{"a": ' * 50_000 + "1" + "}" * 50_000,
    "open brackets": "[" * 200_000,
    "half a pair": r'{"text": "\ud83d"}',
    "half a pair in a key": r'{"\ud83d": "x"}',
    "other half": r'{"text": "\ude00\ud83d"}',
    "text is a number": '{"text": 1e999}',
    "text is NaN": '{"text": NaN}',
    "text is a list": '{"text": ["a"]}',
    "text is an object": '{"text": {"text": "a"}}',
    "no object": '"text"',
    "raw zero byte": '{"text": "a\0b"}',
    "many keys": json.dumps({f"key {i}" * 20: i for i in range(5_000)}),
    "long key": json.dumps({"k" * 1_000_000: 1}),
    "not closed": '{"text": "' + "x" * 300_000,
    "two objects": GOOD + GOOD,
    "a comma after it": GOOD + ",",
    "single quotes": "{'text': 'x'}",
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("form", ["jsonl", "json", "array"])
def test_a_hostile_row_is_named_with_its_place(tmp_path: Path, name: str, form: str) -> None:
    row = ROWS[name]
    lines = f"[{GOOD},\n{row}]" if form == "array" else f"{GOOD}\n{row}\n"
    path = tmp_path / f"train.{form.replace('array', 'json')}"
    path.write_text(lines, encoding="utf-8", errors="surrogatepass")
    found = check(tmp_path)
    if form == "array" and name in ("two objects", "a comma after it"):
        return  # between the elements of a list, commas are not counted
    assert isinstance(found, UserError)
    assert f"{path}, " in str(found)
    assert "2" in str(found).removeprefix(str(tmp_path))


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "fine", "n": ' + "9" * 5000 + "}",
        '{"text": "lost", "text": "fine"}',
        '{"text": "fine", "n": NaN, "m": -Infinity}',
        r'{"text": "fine", "a": "\ud800"}',
        '{"text": "fine", "a": ' + "[" * 90 + "]" * 90 + "}",
        "\ufeff" + '{"text": "\ufefffine"}',
    ],
)
@pytest.mark.parametrize("form", ["{}\n", "[{}]", " \n[ {} ,\n{} ]\n"])
def test_odd_rows_that_are_json_are_read(tmp_path: Path, row: str, form: str) -> None:
    (tmp_path / "train.json").write_text(form.replace("{}", row.removeprefix("\ufeff")))
    found = check(tmp_path)
    assert isinstance(found, dict)
    assert set(found["train"].replace("fine", "")) == set()
    assert found["train"]


COLUMNS = {
    "nested": pa.array([{"text": "x"}]),
    "list": pa.array([["x"]]),
    "binary": pa.array([b"x"]),
    "integers": pa.array([1]),
    "half precision": pa.array([1.0], pa.float16()),
    "dates": pa.array([10**15], pa.timestamp("ns")),
    "decimals": pa.array([None, 1], pa.decimal128(20)),
    "maps": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
}
TEXTS = {
    "dictionary": pa.array(["fine", None, "fine"]).dictionary_encode(),
    "large": pa.array(["fine", None, ""], pa.large_string()),
    "null": pa.nulls(3),
    "none": pa.array([], pa.string()),
}


def tables(column: pa.Array) -> Iterator[tuple[str, Callable[[Path], None]]]:
    table = pa.table({"other": pa.nulls(len(column)), "text": column})

    def as_parquet(path: Path) -> None:
        pq.write_table(table, path)

    def as_arrow(path: Path) -> None:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)

    return iter([("train.parquet", as_parquet), ("train.arrow", as_arrow)])


@pytest.mark.parametrize("kind", [*COLUMNS, *TEXTS])
def test_columns_that_are_no_text_are_named_and_others_read(tmp_path: Path, kind: str) -> None:
    for name, write in tables(COLUMNS[kind] if kind in COLUMNS else TEXTS[kind]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        try:
            write(tmp_path / name)
        except pa.ArrowNotImplementedError:  # Parquet has no such column
            continue
        found = check(tmp_path / name)
        if kind in COLUMNS:
            assert isinstance(found, UserError)
            assert f"{name}, row " in str(found)
        else:
            assert isinstance(found, dict)
            assert set(found["train"]) <= set("fine")


def not_utf8() -> pa.Array:
    offsets = pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in (0, 4, 8)))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"goodR\xc9UN")])


def test_a_column_that_is_not_utf8_is_named_with_its_row(tmp_path: Path) -> None:
    for name, write in tables(not_utf8()):
        write(tmp_path / name)
        found = check(tmp_path / name)
        assert isinstance(found, UserError)
        assert f"{name}, row 2 cannot be read ('utf-8' codec" in str(found)


def test_offsets_that_lead_outside_a_file_are_not_followed(tmp_path: Path) -> None:
    table = pa.table({"text": ["good", "text"]})
    path = tmp_path / "train.arrow"
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    good, far = (b"".join(i.to_bytes(4, "little") for i in (0, 4, end)) for end in (8, 1 << 30))
    assert path.read_bytes().count(good) == 1
    path.write_bytes(path.read_bytes().replace(good, far))
    assert isinstance(check(tmp_path), UserError)


# --- too much ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["txt.gz", "txt.xz", "txt.zst", "jsonl.bz2", "csv.zst"])
def test_a_decompression_bomb_does_not_fill_memory(tmp_path: Path, ending: str) -> None:
    """Tens of millions of letters without a line break, from a file of some kilobytes."""
    kind, compression = ending.split(".")
    letters = 30_000_000 if kind == "txt" else 100_000_000
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
    path = tmp_path / f"train.{ending}"
    path.write_bytes(packed[compression](b"text\n" * (kind == "csv") + b"a" * letters))
    documents = open_corpus(str(path), layout="plain").documents("train")
    tracemalloc.start()
    if kind == "txt":
        assert sum(len(piece.text) for piece in documents) == letters
    else:
        with pytest.raises(UserError, match=r"line [12], is longer than 64 MiB"):
            list(documents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (10_000_000 if kind == "txt" else 250_000_000)  # a row may have 64 MiB


# --- names -------------------------------------------------------------------------------------

TRAIN_WORDS = ("train", "Train", "TRAIN", "training", "trn", "trainset", "train_split", "train (1)")
HELD_WORDS = (
    "valid", "Val", "dev", "validation", "TEST", "test", "tst", "testing", "eval", "evaluation",
    "holdout", "held-out", "Heldout", "test_set", "devtest", "valid (1)",
)  # fmt: skip
PATTERNS = (
    "{}.txt",
    "TinyStories-{}.txt",
    "my-corpus.{}.md",
    "{}-00000-of-00002.txt",
    "c4-{}.00000-of-00512.txt",
    "shard_{}_000.txt",
    "{}_en.txt",
    "data/{}/part-1.txt",
    "en/{}/x.txt",
    "{}.TXT",
    "dataset_{}_v1.1.txt",
    "Corpus{}.txt",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_held_out_text_is_never_trained_on(tmp_path: Path, pattern: str) -> None:
    for number, (train, held) in enumerate(itertools.product(TRAIN_WORDS, HELD_WORDS)):
        folder = tmp_path / str(number)
        for word, line in ((train, "learn\n"), (held, f"{HELD_OUT}\n")):
            path = folder / pattern.format(word)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line[:-1]} {i}\n" for i in range(40)))
        check(folder)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_name_is_read(name: str) -> None:
    assert split_by_name(name) in (*SPLITS, None, "", "validation or test")


NAMES = [
    "two\nlines.txt",
    "| a | `b` \x1b[31m.txt",
    "x" * 240 + ".txt",
    " .txt",
    "%s{}{0}.txt",
    "-rf.txt",
    os.fsdecode(b"not-utf8-\xff\xe9.txt"),
    "\u202etxt.md",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"good text\n", b"bad \xff text"])
def test_odd_names_are_read_and_shown_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path, tmp_path / name):
        found = check(source)
        assert isinstance(found, UserError) == (content != b"good text\n")
        str(found).encode()  # and it can be printed
    other = tmp_path / "folder" / name
    other.mkdir(parents=True)
    (other / "train.txt").write_text("x\n")
    assert isinstance(check(other), dict)


@pytest.mark.parametrize(
    "source",
    ["", " ", "~nobody-of-this-name/x", "a" * 5000, "x\0y", "\n", "a/b/c", "./no/", "\ud800"],
)
def test_what_is_no_path_is_refused(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError) as error:
        open_corpus(source)
    assert len(str(error.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize("value", ["", "a" * 5000, "x\0y", "\ud800", "../..", "a\nb", "*"])
@pytest.mark.parametrize("option", ["config", "text_field", "layout"])
def test_odd_options_are_refused_or_taken(tmp_path: Path, option: str, value: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(GOOD)
    found = check(folder, **{option: value})
    if option == "config" and value in ("", "../.."):
        assert found == {"train": "good"}
    else:
        assert isinstance(found, UserError)


# --- what is no file ---------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_devices_and_loops_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.jsonl.gz")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    (tmp_path / "folder.txt").mkdir()
    corpus = open_corpus(str(tmp_path))
    assert [path.name for path in corpus.files] == ["a.txt"]  # type: ignore[attr-defined]
    assert set(corpus.left_out) == {"pipe.txt", "pipe.jsonl.gz", "zero.txt", "x", "y"}
    assert isinstance(check(tmp_path), dict)
    for name in ("pipe.txt", "zero.txt", "folder.txt", "x"):
        assert isinstance(check(tmp_path / name), UserError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "name", ["train.txt", "book.txt", "train.jsonl", "train.csv", "train.parquet"]
)
def test_a_file_that_becomes_a_pipe_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS.get(name, FORMATS["train.txt"])())
    corpus = open_corpus(str(path), layout="plain")
    path.unlink()
    os.mkfifo(path)
    for read in (corpus.digest, lambda: corpus.text("train")):
        with pytest.raises(UserError, match=rf"{name} is not a regular file"):
            read()


def test_a_broken_link_to_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("text\n")
    (tmp_path / "test.txt").symlink_to("nowhere")
    found = check(tmp_path)
    assert isinstance(found, UserError)
    assert "test.txt cannot be read (No such file" in str(found)
