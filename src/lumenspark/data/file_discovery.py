"""Find the text files in a folder."""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lumenspark.data.documents import listed, shown
from lumenspark.data.file_reader import COMPRESSED
from lumenspark.errors import UserError

PLAIN_KINDS = (".txt", ".md")
ROW_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
NEVER_COMPRESSED = (".parquet", ".arrow")  # these need seeking and have internal compression
KINDS = PLAIN_KINDS + ROW_KINDS

_PUBLISHED_WIKITEXT = re.compile(r"wiki\.(train|valid|test)\.(raw|tokens)")
# README.md, README_zh.md, LICENSE-MIT.txt; but not license-to-kill.txt
_ABOUT = re.compile(
    r"(?:readme|licen[cs]e)(?:[-_. ][^-_. ]{1,12})?"
    r"|copying|notice|citation|change(?:log|s)|authors|contributors|contributing"
    r"|code[-_]of[-_]conduct"
)
# files of `datasets` and the hub without rows; cache-… are results of map and filter
_NOT_ROWS = re.compile(
    r"(?:dataset_infos?|dataset_dict|state|config|package|metadata)\.json|cache-.*\.arrow"
)


@dataclass(frozen=True)
class FileListing:
    """The files of a folder by sorted relative path: text files, and others."""

    text: tuple[Path, ...]
    others: tuple[Path, ...]


def kind_of(path: Path) -> str | None:
    """The extension, one of ``KINDS``; None for other files."""
    if _PUBLISHED_WIKITEXT.fullmatch(path.name.lower()):
        return ".txt"
    bare = _without_compression(path)
    kind = bare.suffix.lower()
    if kind not in KINDS or (bare != path and kind in NEVER_COMPRESSED):
        return None
    return kind


def stem_of(path: Path) -> str:
    """The file name without extensions."""
    return _without_compression(path).stem


def _without_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def find_text_files(folder: Path) -> FileListing:
    """All files in ``folder`` and its subfolders, except hidden ones.

    Text files are those of ``KINDS``, without files about the text (README, LICENSE, …) unless
    there are no others, and without a compressed copy of another file. Links to folders are
    followed; each folder is visited once.
    """
    files, odd = _files_below(folder)
    candidates = [
        path for path in files if kind_of(path) and not _NOT_ROWS.fullmatch(path.name.lower())
    ]
    present = set(candidates)
    candidates = [p for p in candidates if _without_compression(p) not in present - {p}]
    texts = [path for path in candidates if not _is_about(path)] or candidates
    others = (set(files) - set(texts)) | set(odd)
    return FileListing(tuple(sorted(texts)), tuple(sorted(others)))


def _is_about(path: Path) -> bool:
    return kind_of(path) in PLAIN_KINDS and bool(_ABOUT.fullmatch(stem_of(path).lower()))


def _files_below(root: Path) -> tuple[list[Path], list[Path]]:
    """Relative paths of files, and of pipes and devices."""
    files: list[Path] = []
    odd: list[Path] = []
    folders, linked = [root], list[Path]()
    entered: set[tuple[int, int]] = set()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        if not _is_new(folder, entered):
            continue
        for entry in _entries(folder):
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            mode = _mode(path)
            if mode is not None and stat.S_ISDIR(mode):
                (linked if entry.is_symlink() else folders).append(path)
            elif mode is None or stat.S_ISREG(mode):  # a broken link fails when it is read
                files.append(path.relative_to(root))
            else:
                odd.append(path.relative_to(root))
    return files, odd


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"the folder {shown(folder)} cannot be read ({error.strerror}): make it readable or "
            "remove it"
        ) from error


def _is_new(folder: Path, entered: set[tuple[int, int]]) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return True  # listing it raises
    identity = (status.st_dev, status.st_ino)
    if identity in entered:
        return False
    entered.add(identity)
    return True


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def no_text(root: Path, others: Iterable[Path]) -> str:
    """The error message for a folder or file without text files."""
    present = listed([str(path) for path in others])
    return (
        f"there is no text in {shown(root)}{f' (only {present})' if present else ''}: supported "
        f"are {', '.join(KINDS)}, all but {' and '.join(NEVER_COMPRESSED)} also compressed "
        f"({', '.join(COMPRESSED)}), so unpack archives and save other files as .txt"
    )
