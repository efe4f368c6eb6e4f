"""Files of rows, one document per row: JSON lines, JSON, CSV, Parquet, Arrow.

Unreadable rows raise a UserError with file and line or row number. One row (at most 64 MiB) or a
few are held in memory.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lumenspark.data.documents import (
    MARK,
    no_column,
    normal_text,
    row_text,
    shown,
    value_text,
)
from lumenspark.data.file_discovery import kind_of
from lumenspark.data.file_reader import (
    LONGEST_ROW,
    lines,
    open_bytes,
    open_file,
    read_text,
    too_long,
)
from lumenspark.errors import UserError, quoted, reading

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

T = TypeVar("T")

FIX = "correct it or remove it"
ROWS_AT_ONCE = 64  # of Parquet files
END = object()

_GAP = re.compile(r"[\s,]*")
_NEARLY_ALL = 16  # characters; longer than a JSON literal or escape cut off by a chunk


def read_rows(path: Path, field: str) -> Iterator[str]:
    """The non-null texts of a file of rows."""
    kind = kind_of(path)
    if kind in (".parquet", ".arrow"):
        yield from _column(path, field)
    elif kind in (".csv", ".tsv"):
        yield from _table(path, field, "," if kind == ".csv" else "\t")
    elif kind == ".json" and _is_array(path):
        yield from _array(path, field)
    else:
        yield from _json_lines(path, field)


def guarded(items: Iterable[T], where: str, fix: str = FIX) -> Iterator[T]:
    """``items``; exceptions of the iterator become a UserError about ``where``.

    The message counts the items before it: "a.csv, after row 7,".
    """
    number = 0
    iterator: Iterator[T] | None = None
    while True:
        try:
            iterator = iterator or iter(items)
            item: Any = next(iterator, END)
        except Exception as error:
            with reading(f"{where}, after row {number},", fix):
                raise error
        if item is END:
            return
        number += 1
        yield item


def _json_lines(path: Path, field: str) -> Iterator[str]:
    name = shown(path)
    for number, line in enumerate(lines(path), start=1):
        where = f"{name}, line {number}"
        line = line.removeprefix(MARK)  # concatenated files have several
        if line.strip():
            text = row_text(_parsed(line, where), field, where)
            if text is not None:
                yield text


def _parsed(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} (column {error.colno}); {FIX}") from None
    except Exception:  # nested too deep, or an integer above Python's digit limit
        with reading(where, FIX):
            return json.loads(line, parse_int=float)


def _is_array(path: Path) -> bool:
    with open_bytes(path) as file:
        return file.read(1 << 16).lstrip().startswith(b"[")


def _array(path: Path, field: str) -> Iterator[str]:
    for number, row in enumerate(_elements(path), start=1):
        text = row_text(row, field, f"{shown(path)}, row {number}")
        if text is not None:
            yield text


def _elements(path: Path) -> Iterator[object]:
    """The elements of a JSON array, one at a time in memory."""
    number, rest, wanted, begun = 1, "", 0, False
    chunks = read_text(path)
    for chunk in chain(chunks, [None]):
        rest += chunk or ""
        if chunk is not None and len(rest) < wanted:
            continue  # do not parse a long row again with every chunk
        place = _GAP.match(rest).end()  # type: ignore[union-attr]
        if not begun and place < len(rest):
            place, begun = place + 1, True  # after the bracket
        where = f"{shown(path)}, row {number}"
        while (found := _element(rest, place, where, last=chunk is None)) is not None:
            row, place = found
            if row is END:
                _check_end(chain([rest[place:]], chunks), where)
                return
            yield row
            number += 1
            where = f"{shown(path)}, row {number}"
        rest = rest[place:]
        wanted = max(2 * len(rest), 1)
        if len(rest) > LONGEST_ROW:
            raise too_long(where)
    raise UserError(f"{where} is missing: the file ends inside the list, so fetch it again")


def _check_end(chunks: Iterable[str], where: str) -> None:
    if any(chunk.strip() for chunk in chunks):
        raise UserError(
            f"{where} comes after the end of the list: write one list, or one row per "
            "line as .jsonl"
        )


def _element(text: str, place: int, where: str, last: bool) -> tuple[object, int] | None:
    """The element at ``place`` (``END`` after the last) and its end; None if it is cut off."""
    place = _GAP.match(text, place).end()  # type: ignore[union-attr]
    if place == len(text):
        return None
    if text[place] == "]":
        return END, place + 1
    with reading(where, FIX):
        try:
            return json.JSONDecoder().raw_decode(text, place)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos > len(text) - _NEARLY_ALL
            if cut and not last:
                return None
            raise UserError(f"{where} is not JSON: {error.msg}; {FIX}") from None
        except ValueError:  # an integer above Python's digit limit
            return json.JSONDecoder(parse_int=float).raw_decode(text, place)


def _table(path: Path, field: str, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(LONGEST_ROW)
    reader = csv.reader(lines(path), delimiter=delimiter, strict=True)
    rows = guarded(reader, shown(path))
    header = next(rows, [])
    if field not in header:
        raise no_column(shown(path), field, header)
    for row in rows:
        if row and len(row) != len(header):
            raise UserError(
                f"{shown(path)}, line {reader.line_num}: {len(row)} values, but the first line "
                f"names {len(header)} columns: put texts with {quoted(delimiter)} in them in "
                "double quotes"
            )
        if row:
            yield normal_text(row[header.index(field)])


def _column(path: Path, field: str) -> Iterator[str]:
    name, number = shown(path), 0
    batches = _parquet(path, field) if kind_of(path) == ".parquet" else _arrow(path, field)
    for column in batches:
        for content in _values(column, name, number + 1):
            number += 1
            text = value_text(content, field, f"{name}, row {number}")
            if text is not None:
                yield text


def _values(column: Any, name: str, first: int) -> list[object]:
    """The Python values of a column; ``first`` is the number of its first row."""
    try:
        return column.to_pylist()
    except Exception:  # one by one, to name the row
        values = []
        for number, value in enumerate(column, first):
            with reading(f"{name}, row {number}", FIX):
                values.append(value.as_py())
        return values


def _parquet(path: Path, field: str) -> Iterator[Any]:
    with open_parquet(path) as file:
        _check_column(path, field, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[field], use_threads=False)
        yield from (batch.column(0) for batch in batches)


@contextmanager
def open_parquet(path: Path) -> Iterator["ParquetFile"]:
    import pyarrow.parquet as pq

    with open_file(path) as opened:
        file = pq.ParquetFile(opened, buffer_size=1 << 20, page_checksum_verification=True)
        with file:
            yield file


def _arrow(path: Path, field: str) -> Iterator[Any]:
    """Batches of a column of an Arrow file or stream (as written by ``save_to_disk``)."""
    import pyarrow as pa

    with open_file(path) as file:
        is_file = file.peek(6)[:6] == b"ARROW1"
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        _check_column(path, field, reader.schema.names)
        place = reader.schema.names.index(field)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            column = batch.column(place)
            _check_offsets(column)
            yield column


def _check_offsets(column: Any) -> None:
    """Raise for an offset outside the data of an Arrow column, which pyarrow would follow."""
    import pyarrow as pa

    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    # a text that is not UTF-8 passes, and is found with its row
    (column.view(as_bytes) if as_bytes else column).validate(full=True)


def _check_column(path: Path, field: str, columns: list[str]) -> None:
    if field not in columns:
        raise no_column(shown(path), field, columns)
