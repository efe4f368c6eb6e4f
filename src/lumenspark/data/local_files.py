"""A corpus from files: .txt and .md (a file is a document), .jsonl and .parquet (a row is one)."""

import codecs
import hashlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lumenspark.data.documents import (
    PIECE,
    SHARES,
    SPLIT_NAMES,
    SPLITS,
    Corpus,
    Piece,
    cut,
    in_split,
    row_text,
)
from lumenspark.data.wikitext import articles, lines_from_rows, looks_like_wikitext
from lumenspark.errors import UserError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

TEXT_SUFFIXES = (".txt", ".md")
ROW_SUFFIXES = (".jsonl", ".parquet")
LONG = 1 << 16  # bytes; a longer plain document is divided by position

# train.txt, wiki.valid.txt, test-00000-of-00002.parquet; but not train-journeys.txt
_SPLIT_FILE = re.compile(rf"(?:.*\.)?({'|'.join(SPLIT_NAMES)})(?:[-_.]\d+(?:-of-\d+)?)?")
_PUBLISHED_WIKITEXT = re.compile(r"wiki\.(train|valid|test)\.(raw|tokens)")


@dataclass
class LocalFiles(Corpus):
    """A file, or a folder with everything in it and below it, in the order of the paths.

    Splits are named by files (``train.txt``, ``wiki.valid.txt``, ``test-00000-of-00002.parquet``)
    or by the folders at the top (``train``, ``validation`` or ``valid``, ``val``, ``dev``, and
    ``test``); then files without such a name are left out. Where nothing is named, 90% of the
    documents are for training, 5% for validation and 5% for testing, chosen by the hash of their
    text; and a plain document of more than 64 KiB, which a hash cannot divide, is cut at line
    breaks instead: its first 90%, the next 5%, the last 5%.
    """

    name: str
    layout: str
    folder: Path
    files: tuple[Path, ...]
    named: dict[str, tuple[Path, ...]]
    text_field: str

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self.named) or SPLITS

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        whole = hashlib.sha256(f"{self.layout}\n{self.text_field}\n".encode())
        for path in self.files:
            with _open(path) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{content} {path.relative_to(self.folder).as_posix()}\n".encode())
        return whole.hexdigest()

    def size(self, split: str) -> int | None:
        if self.named:
            return sum(map(_text_size, self.named.get(split, ())))
        return int(sum(map(_text_size, self.files)) * SHARES[split])

    def documents(self, split: str) -> Iterator[Piece]:
        files = self.named.get(split, self.files)
        if self.layout == "wikitext":
            everything = self._articles(files)
            yield from everything if self.named else in_split(everything, split)
        elif self.named:
            for path in files:
                for document in self._plain(path):
                    yield from document
        else:
            for path in files:
                yield from self._divided(path, split)

    def _articles(self, files: tuple[Path, ...]) -> Iterator[Piece]:
        for path in files:
            if path.suffix not in ROW_SUFFIXES:
                yield from articles(read_text(path))
        rows = (self._rows(path) for path in files if path.suffix in ROW_SUFFIXES)
        # one stream, since an article may go on in the next file of a split
        yield from articles(lines_from_rows(chain.from_iterable(rows)))

    def _plain(self, path: Path) -> Iterator[Iterator[Piece]]:
        if path.suffix in ROW_SUFFIXES:
            yield from (cut([text]) for text in self._rows(path))
        else:
            yield cut(read_text(path))

    def _divided(self, path: Path, split: str) -> Iterator[Piece]:
        """What falls into ``split`` of a file that belongs to no named one."""
        if path.suffix not in ROW_SUFFIXES and _file_size(path) > LONG:
            with _open(path) as file:
                begin, end = _part(file, _file_size(path), split)
            yield from cut(read_text(path, begin, end))
        elif path.suffix not in ROW_SUFFIXES:
            yield from in_split(cut(read_text(path)), split)
        else:
            for text in self._rows(path):
                data = text.encode()
                if len(data) > LONG:
                    begin, end = _part(io.BytesIO(data), len(data), split)
                    yield from cut([data[begin:end].decode()])
                else:
                    yield from in_split(cut([text]), split)

    def _rows(self, path: Path) -> Iterator[str]:
        read = _parquet_rows if path.suffix == ".parquet" else _jsonl_rows
        return read(path, self.text_field)

    def start(self) -> str:
        """The first few lines of the first file of text, to know its layout by."""
        path = next(iter(self.named.get("train", self.files)))
        if path.suffix in ROW_SUFFIXES:
            return "".join(islice(lines_from_rows(self._rows(path)), 4))
        return next(read_text(path), "")


def open_files(source: str, layout: str, config: str | None, text_field: str) -> LocalFiles:
    """The corpus in a file or folder; ``config`` names a folder inside it.

    Raises:
        UserError: no file of a known kind, or an empty one.
    """
    root = Path(source, config) if config else Path(source)
    if root.is_file():
        folder, candidates = root.parent, [root]
    else:
        folder, candidates = root, sorted(path for path in root.rglob("*") if path.is_file())
    files = tuple(path for path in candidates if _is_text(path.relative_to(folder)))
    if not files:
        kinds = ", ".join(TEXT_SUFFIXES + ROW_SUFFIXES)
        raise UserError(f"there is no text in {root}: it needs a file of the kinds {kinds}")
    named: dict[str, tuple[Path, ...]] = {}
    for path in files:
        split = _named_split(path.relative_to(folder))
        if split:
            named[split] = (*named.get(split, ()), path)
    if named:
        files = tuple(path for path in files if any(path in paths for paths in named.values()))
    for path in files:
        if _file_size(path) == 0:
            raise UserError(f"the file {path} is empty: fill it or take it away")
    corpus = LocalFiles(source, layout, folder, files, named, text_field)
    if layout == "auto":
        corpus.layout = "wikitext" if looks_like_wikitext(corpus.start()) else "plain"
    return corpus


def _is_text(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    known = path.suffix in TEXT_SUFFIXES + ROW_SUFFIXES
    return not hidden and (known or _PUBLISHED_WIKITEXT.fullmatch(path.name) is not None)


def _named_split(path: Path) -> str | None:
    if len(path.parts) > 1 and path.parts[0] in SPLIT_NAMES:
        return SPLIT_NAMES[path.parts[0]]
    match = _SPLIT_FILE.fullmatch(path.stem)
    return SPLIT_NAMES[match[1]] if match else None


def read_text(path: Path, begin: int = 0, end: int | None = None) -> Iterator[str]:
    """The text from byte ``begin`` to ``end``, in chunks of at most 64 KiB.

    Raises:
        UserError: the file cannot be read, or a byte of it is not UTF-8 (with line and offset).
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open(path) as file:
        left = file.seek(0, io.SEEK_END) - begin if end is None else end - begin
        file.seek(begin)
        while left > 0 and (data := file.read(min(PIECE, left))):
            pending = len(decoder.getstate()[0])  # bytes of a character that the last read cut
            left -= len(data)
            try:
                yield decoder.decode(data, final=left == 0)
            except UnicodeDecodeError as error:
                offset = file.tell() - len(data) - pending + error.start
                raise UserError(_not_utf8(path, offset)) from None


def _not_utf8(path: Path, offset: int) -> str:
    with _open(path) as file:
        line, left = 1, offset
        while left:
            data = file.read(min(PIECE, left))
            line, left = line + data.count(b"\n"), left - len(data)
        byte = file.read(1)[0]
    return (
        f"{path}, line {line}: byte 0x{byte:02x} at offset {offset} is not UTF-8: "
        "save the file as UTF-8"
    )


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes; what keeps them from being read becomes a UserError that names the file."""
    with _reading(path), path.open("rb") as file:
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"the file {path} cannot be read ({reason}): make it readable or take it away"
        ) from None


def _jsonl_rows(path: Path, field: str) -> Iterator[str]:
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line.decode().removeprefix("\ufeff")) if line.strip() else None
            except UnicodeDecodeError as error:
                raise UserError(_not_utf8(path, offset + error.start)) from None
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{where} is not JSON: {error.msg} (column {error.colno})"
                ) from None
            text = row_text(row, field, where) if line.strip() else None
            if text is not None:
                yield text
            offset += len(line)


def _parquet_rows(path: Path, field: str) -> Iterator[str]:
    with _open_parquet(path) as file:
        if field not in file.schema_arrow.names:
            columns = ", ".join(map(repr, file.schema_arrow.names))
            raise UserError(
                f"{path} has no column {field!r} (it has: {columns}): name the right text field"
            )
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=[field]):
            for row in batch.to_pylist():
                number += 1
                text = row_text(row, field, f"{path}, row {number}")
                if text is not None:
                    yield text


@contextmanager
def _open_parquet(path: Path) -> Iterator["ParquetFile"]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(path):
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is not a parquet file that can be read: {error}") from None
        with file:
            yield file


def _file_size(path: Path) -> int:
    with _reading(path):
        return path.stat().st_size


def _text_size(path: Path) -> int:
    if path.suffix != ".parquet":
        return _file_size(path)
    with _open_parquet(path) as file:  # compressed on disk, so its file size says too little
        groups = range(file.metadata.num_row_groups)
        return sum(file.metadata.row_group(group).total_byte_size for group in groups)


def _part(file: BinaryIO, size: int, split: str) -> tuple[int, int]:
    """Begin and end of a split in a document of ``size`` bytes, both at line breaks."""
    validation = _boundary(file, size, SHARES["train"])
    test = _boundary(file, size, SHARES["train"] + SHARES["validation"])
    return {"train": (0, validation), "validation": (validation, test), "test": (test, size)}[split]


def _boundary(file: BinaryIO, size: int, share: float) -> int:
    """The first line break, else space, else character, at or after ``share`` of the bytes."""
    near = int(size * share)
    file.seek(near)
    window = file.read(min(PIECE, size // 40))  # short enough to leave no split without text
    for mark in (b"\n", b" "):
        if mark in window:
            return near + window.index(mark) + 1
    return near + next((i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)
