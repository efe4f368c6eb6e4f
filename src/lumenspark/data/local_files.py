"""A corpus of local files: .txt and .md (one document per file), and files of rows (one per row).

Files of rows: .jsonl, .json, .csv, .tsv, .parquet and .arrow (written by ``save_to_disk`` of
`datasets`). All but the last two may be compressed: .gz, .bz2, .xz, .zst.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

from lumenspark.data.documents import (
    PIECE,
    SHARES,
    Corpus,
    Piece,
    cut,
    in_split,
    listed,
    shown,
)
from lumenspark.data.file_discovery import ROW_KINDS, find_text_files, kind_of, no_text, stem_of
from lumenspark.data.file_reader import (
    bytes_from,
    file_size,
    is_compressed,
    is_lfs_pointer,
    mark_length,
    open_file,
    read_text,
    reading_file,
    text_size,
)
from lumenspark.data.rows import open_parquet, read_rows
from lumenspark.data.split_names import (
    EITHER,
    SPLITS,
    UnclearNamesError,
    split_by_name,
    splits_of_files,
)
from lumenspark.data.wikitext import articles, lines_from_rows, looks_like_wikitext
from lumenspark.errors import UserError

LONG = 1 << 16  # bytes; longer plain documents are split by position

Window = Callable[[int, int], bytes]


@dataclass
class LocalFiles(Corpus):
    """A file, or all files of a folder and its subfolders, in path order.

    Splits are named by files (``train.txt``, ``wiki.valid.txt``, ``test-00000-of-00002.parquet``)
    or folders, see :mod:`.split_names`; other files are left out then. Without named splits, 90% of
    the documents go to train, 5% to validation and 5% to test, by the hash of their text; a plain
    document over 64 KiB is cut at line breaks instead, into its first 90%, next 5% and last 5%.

    Byte-order marks at line starts are dropped and Windows line ends are read as ``\\n``, in
    training and evaluation alike.
    """

    name: str
    layout: str
    folder: Path
    files: tuple[Path, ...]
    named: dict[str, tuple[Path, ...]]
    text_field: str
    left_out: tuple[str, ...] = ()
    config: str | None = None
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False)

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self.named) or SPLITS

    def is_divided(self) -> bool:
        return not self.named

    def file_count(self, split: str) -> int:
        return len(self.named.get(split, self.files))

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        whole = hashlib.sha256(f"{self.layout}\n{self.text_field}\n".encode(errors="replace"))
        for path in self.files:
            self._seen[path] = _state(path)
            name = path.relative_to(self.folder).as_posix().encode(errors="surrogateescape")
            whole.update(f"{_content_digest(path)} ".encode() + name + b"\n")
        return whole.hexdigest()

    def check_unchanged(self) -> None:
        for path, state in self._seen.items():
            if _state(path) != state:
                raise UserError(
                    f"the file {shown(path)} changed while it was read: start again when "
                    "it is complete"
                )

    def size(self, split: str) -> int | None:
        files = self.named.get(split, ()) if self.named else self.files
        if any(map(is_compressed, files)):
            return None
        share = 1 if self.named else SHARES[split]
        return int(sum(map(_stored_text, files)) * share)

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
            if not _has_rows(path):
                yield from articles(read_text(path))
        rows = (self._rows(path) for path in files if _has_rows(path))
        # one stream, since an article may continue in the next file of a split
        yield from articles(lines_from_rows(chain.from_iterable(rows)))

    def _plain(self, path: Path) -> Iterator[Iterator[Piece]]:
        if _has_rows(path):
            yield from (cut([text]) for text in self._rows(path))
        else:
            yield cut(read_text(path))

    def _divided(self, path: Path, split: str) -> Iterator[Piece]:
        """The part of a file without named split that is assigned to ``split``."""
        if not _has_rows(path):
            yield from self._divided_file(path, split)
            return
        for text in self._rows(path):
            data = text.encode()
            if len(data) > LONG:
                begin, end = _parts(len(data), partial(_window_of, data))[split]
                yield from cut([data[begin:end].decode()])
            else:
                yield from in_split(cut([text]), split)

    def _divided_file(self, path: Path, split: str) -> Iterator[Piece]:
        parts = self._parts_of_file(path)
        if parts is None:
            yield from in_split(cut(read_text(path)), split)
        else:
            yield from cut(read_text(path, *parts[split]))

    def _parts_of_file(self, path: Path) -> dict[str, tuple[int, int]] | None:
        """Byte ranges of the splits in a plain file; None for a file assigned by hash."""
        if path not in self._divisions:
            size = text_size(path)
            window = partial(_window_of_file, path)
            self._divisions[path] = _parts(size, window) if size > LONG else None
        return self._divisions[path]

    @cached_property
    def _divisions(self) -> dict[Path, dict[str, tuple[int, int]] | None]:
        return {}  # cached, since they need a pass over a compressed file

    def _rows(self, path: Path) -> Iterator[str]:
        return read_rows(path, self.text_field)

    def start(self) -> str:
        """The first lines of the first file, for layout detection."""
        path = next(iter(self.named.get("train", self.files)))
        if _has_rows(path):
            return "".join(islice(lines_from_rows(self._rows(path)), 4))
        return "".join(islice(read_text(path), 1))


def open_files(source: str, layout: str, config: str | None, text_field: str) -> LocalFiles:
    """The corpus of a file or folder; ``config`` is a folder inside it.

    Raises:
        UserError: no text file, an empty one, or ambiguous split names.
    """
    root = Path(source, config) if config else Path(source)
    folder, texts, others = _list_files(root)
    named = _named_splits(root, folder, texts)
    if named:
        chosen = tuple(sorted(chain.from_iterable(named.values())))
    else:
        chosen = _without_other_json(folder, texts, text_field)
    left_out = sorted({*texts, *others} - {*chosen})
    for path in chosen:
        _check(folder / path)
    corpus = LocalFiles(
        name=source,
        layout=layout,
        folder=folder,
        files=tuple(folder / path for path in chosen),
        named={split: tuple(folder / path for path in paths) for split, paths in named.items()},
        text_field=text_field,
        left_out=tuple(map(str, left_out)),
        config=config,
    )
    if layout == "auto":
        corpus.layout = "wikitext" if looks_like_wikitext(corpus.start()) else "plain"
    return corpus


def _list_files(root: Path) -> tuple[Path, tuple[Path, ...], tuple[Path, ...]]:
    """The folder, and relative paths of its text files and other files."""
    with reading_file(root):
        is_folder, is_file = root.is_dir(), root.is_file()
    if is_folder:
        found = find_text_files(root)
        if not found.text:
            raise UserError(no_text(root, found.others))
        return root, found.text, found.others
    if not is_file:
        raise UserError(f"{shown(root)} is neither a file nor a folder: check the path")
    if kind_of(root) is None:
        raise UserError(no_text(root, ()))
    return root.parent, (Path(root.name),), ()


def _named_splits(root: Path, folder: Path, texts: tuple[Path, ...]) -> dict[str, tuple[Path, ...]]:
    stems = {path: stem_of(path) for path in texts}
    if root != folder and split_by_name(stems[texts[0]]) == "":
        return {}  # a single file given by the user is not a split
    try:
        splits = splits_of_files(stems)
    except UnclearNamesError as error:
        raise UserError(_unclear(root, error)) from None
    return {
        split: tuple(path for path in texts if splits[path] == split)
        for split in SPLITS
        if split in splits.values()
    }


def _unclear(root: Path, error: UnclearNamesError) -> str:
    paths = [str(path) for path in error.paths]
    one = len(paths) == 1
    readings = {split_by_name(stem_of(Path(path))) for path in paths}
    what = EITHER if readings == {EITHER} else "a split (train, validation, test)"
    return (
        f"in {shown(root)} {len(paths):,} {'file looks' if one else 'files look'} as if named "
        f"after {what}, but ambiguously ({listed(paths)}): name the files of a split train.txt, "
        "validation.txt or test.txt, or put them into a folder of that name, and rename files "
        "that belong to no split"
    )


def _without_other_json(folder: Path, texts: tuple[Path, ...], text_field: str) -> tuple[Path, ...]:
    """``texts`` without .json files of other content, if there are files of other kinds."""
    if all(kind_of(path) == ".json" for path in texts):
        return texts
    return tuple(
        path for path in texts if kind_of(path) != ".json" or _begins(folder / path, text_field)
    )


def _begins(path: Path, text_field: str) -> bool:
    try:
        next(read_rows(path, text_field), None)
    except UserError:
        return False
    return True


def _check(path: Path) -> None:
    if file_size(path) == 0:
        raise UserError(f"the file {shown(path)} is empty: fill it or remove it")
    if is_lfs_pointer(path):
        raise UserError(
            f"{shown(path)} is a Git LFS pointer, not the text: run git lfs pull in its folder"
        )


def _has_rows(path: Path) -> bool:
    return kind_of(path) in ROW_KINDS


def _content_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, without the byte-order mark of an uncompressed file."""
    mark = 0 if _has_no_mark(path) else mark_length(path)
    with open_file(path) as file:
        file.seek(mark)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_no_mark(path: Path) -> bool:
    return is_compressed(path) or kind_of(path) in (".parquet", ".arrow")


def _state(path: Path) -> tuple[int, int]:
    file_size(path)  # raises UserError for a missing file
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _stored_text(path: Path) -> int:
    """Approximate bytes of text in an uncompressed file."""
    if kind_of(path) != ".parquet":
        return file_size(path)
    with open_parquet(path) as file:  # compressed internally
        groups = range(file.metadata.num_row_groups)
        return sum(file.metadata.row_group(group).total_byte_size for group in groups)


def _parts(size: int, window: Window) -> dict[str, tuple[int, int]]:
    """Byte range of each split in a document of ``size`` bytes, with cuts at line breaks."""
    validation = _boundary(size, SHARES["train"], window)
    test = _boundary(size, SHARES["train"] + SHARES["validation"], window)
    return {"train": (0, validation), "validation": (validation, test), "test": (test, size)}


def _window_of(data: bytes, place: int, length: int) -> bytes:
    return data[place : place + length]


def _window_of_file(path: Path, place: int, length: int) -> bytes:
    return b"".join(bytes_from(path, place, place + length))


def _boundary(size: int, share: float, window_at: Window) -> int:
    """The first line break, else space, else character, at or after ``share`` of the bytes."""
    near = int(size * share)
    window = window_at(near, min(PIECE, size // 40))  # short, so that every split gets text
    for mark in (b"\n", b" "):
        if mark in window:
            return near + window.index(mark) + 1
    return near + next((i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)
