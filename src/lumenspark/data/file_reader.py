"""Read the bytes and the text of a file: decompressed, without byte-order mark, in chunks.

Only regular files are opened, since reading a pipe may block. Read errors become a UserError that
names the file.
"""

import codecs
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from lumenspark.data.documents import PIECE, shown, without_marks
from lumenspark.errors import UserError, first_line, reading

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
LONGEST_ROW = 1 << 26  # bytes; rows are held in memory, plain documents are not

_UTF8_MARK = codecs.BOM_UTF8
_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def reading_file(path: Path) -> Iterator[None]:
    """Convert read errors of the block to a UserError about ``path``. For parsing alone."""
    fix = "make it readable or remove it"
    with reading(f"the file {shown(path)}", fix):
        try:
            yield
        except OSError as error:  # its message repeats the path
            reason = error.strerror or first_line(error)
            raise UserError(f"the file {shown(path)} cannot be read ({reason}): {fix}") from error


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """The raw bytes of a regular file."""
    with reading_file(path):
        # Non-blocking, since a pipe may have replaced the file.
        binary = getattr(os, "O_BINARY", 0)  # Windows
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | binary)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{shown(path)} is not a regular file: remove it")
            yield file


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """The decompressed bytes of a text file, positioned after a byte-order mark."""
    with open_file(path) as file, ExitStack() as stack:
        plain = _decompressed(file, path.suffix.lower(), stack)
        plain.read(_mark_length(plain, path))
        yield plain


def _decompressed(file: io.BufferedReader, suffix: str, stack: ExitStack) -> io.BufferedReader:
    raw: BinaryIO
    if suffix == ".gz":
        import gzip

        raw = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
    elif suffix == ".bz2":
        import bz2

        raw = bz2.BZ2File(file)  # type: ignore[assignment]
    elif suffix == ".xz":
        import lzma

        raw = lzma.LZMAFile(file)  # type: ignore[assignment]  # noqa: SIM115
    elif suffix == ".zst":
        import pyarrow as pa

        raw = pa.input_stream(file, compression="zstd")
    else:
        return file
    return stack.enter_context(io.BufferedReader(raw))  # type: ignore[arg-type]


def _mark_length(file: io.BufferedReader, path: Path) -> int:
    start = file.peek(4)[:4]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise UserError(f"{shown(path)} looks like UTF-16 or UTF-32: save the file as UTF-8")
    return len(_UTF8_MARK) if start.startswith(_UTF8_MARK) else 0


def mark_length(path: Path) -> int:
    """Length in bytes of the byte-order mark at the start of the text: 3 or 0."""
    with open_file(path) as file, ExitStack() as stack:
        return _mark_length(_decompressed(file, path.suffix.lower(), stack), path)


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED


def file_size(path: Path) -> int:
    """Bytes of the file on disk."""
    with reading_file(path):
        return path.stat().st_size


def text_size(path: Path) -> int:
    """Bytes of the decompressed text, without byte-order mark. Reads a compressed file in full."""
    if not is_compressed(path):
        return file_size(path) - mark_length(path)
    with open_bytes(path) as file:
        return sum(map(len, iter(lambda: file.read(PIECE), b"")))


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is a Git LFS pointer."""
    if file_size(path) > 1024:
        return False
    with open_file(path) as file:
        return file.read(len(_POINTER)) == _POINTER


def bytes_from(path: Path, begin: int, end: int | None = None) -> Iterator[bytes]:
    """The decompressed text from byte ``begin`` to ``end``, in chunks of at most 64 KiB."""
    with open_bytes(path) as file:
        if is_compressed(path):
            _skip(file, begin)
        else:
            file.seek(begin, io.SEEK_CUR)
        left = end - begin if end is not None else None
        while data := file.read(PIECE if left is None else min(PIECE, left)):
            yield data
            left = None if left is None else left - len(data)


def _skip(file: BinaryIO, count: int) -> None:
    while count and (data := file.read(min(PIECE, count))):
        count -= len(data)


def read_text(path: Path, begin: int = 0, end: int | None = None) -> Iterator[str]:
    """The text from byte ``begin`` to ``end``, in chunks; Windows line endings become ``\\n``.

    Byte-order marks at line starts are dropped.

    Raises:
        UserError: unreadable file, or invalid UTF-8 (with line and offset).
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, held = begin, ""  # a trailing "\r" is held back until the next character is known
    before = "\n"  # the character before the next chunk, or a space
    for data in bytes_from(path, begin, end):
        if offset == 0 and data.count(0) * 10 > len(data):
            raise UserError(
                f"{shown(path)} has many zero bytes, as in UTF-16 or binary files: "
                "save it as UTF-8 or remove it"
            )
        text = held + _decoded(decoder, data, offset, path)
        offset += len(data)
        held = "\r" if text.endswith("\r") else ""
        text = without_marks(before + text.removesuffix("\r").replace("\r\n", "\n"))
        yield text[1:]
        before = "\n" if text.endswith("\n") else " "
    _decoded(decoder, b"", offset, path, final=True)
    if held:
        yield held


def _decoded(
    decoder: codecs.IncrementalDecoder, data: bytes, offset: int, path: Path, final: bool = False
) -> str:
    pending = len(decoder.getstate()[0])  # bytes of a character cut by the last read
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        raise not_utf8(path, offset - pending + error.start) from None


def not_utf8(path: Path, offset: int) -> UserError:
    """The error for the byte at ``offset`` in the text of ``path``."""
    line = 1
    for data in bytes_from(path, 0, offset):
        line += data.count(b"\n")
    byte = next(bytes_from(path, offset, offset + 1), b"?")[0]
    return UserError(
        f"{shown(path)}, line {line}: byte 0x{byte:02x} at offset {offset + mark_length(path)} is "
        "not UTF-8: save the file as UTF-8"
    )


def lines(path: Path) -> Iterator[str]:
    """The lines of a file, each with its line break.

    Raises:
        UserError: as :func:`read_text`, and for a line over 64 MiB.
    """
    offset = 0
    with open_bytes(path) as file:
        for number, data in enumerate(iter(lambda: file.readline(LONGEST_ROW + 1), b""), start=1):
            if len(data) > LONGEST_ROW:
                raise too_long(f"{shown(path)}, line {number},")
            try:
                yield data.decode()
            except UnicodeDecodeError as error:
                raise not_utf8(path, offset + error.start) from None
            offset += len(data)


def too_long(where: str) -> UserError:
    """The error for a row over ``LONGEST_ROW`` bytes."""
    return UserError(
        f"{where} is longer than {LONGEST_ROW >> 20} MiB: divide it into several documents, or "
        "use .txt"
    )
