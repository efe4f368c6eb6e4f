"""Writing files so that a crash never leaves half of one, and holding a folder against others."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Inside, no other process holds ``folder``. Raises UserError(``busy``) where one does."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(busy) from error
    try:
        yield
    finally:
        lock.release()


def write_file(path: Path, content: str | bytes) -> None:
    """Write ``content`` to a temporary name in the same folder, flush it to disk, rename it.

    Whatever happens, ``path`` holds either its old content or all of the new one. Raises OSError
    (disk full, folder not writable) with the old file untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written by :func:`write_file`."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def flush_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut (POSIX only)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill; it becomes ``out`` when the block has ended well, and else it is gone.

    Where ``out`` is there, empty, what was made is moved into it. Raises UserError where ``out``
    holds something already, or cannot be made or filled.
    """
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already: name a folder that is new or empty")
    is_there = out.exists()
    place = out if is_there else out.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=place, prefix=f".{out.name}-")
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}") from error
    with temporary:
        folder = Path(temporary.name, out.name)
        folder.mkdir()
        yield folder
        try:
            for path in folder.rglob("*"):
                if path.is_file():
                    path.chmod(0o644)  # safetensors leaves its files to their owner alone
                    with path.open("rb+") as file:
                        os.fsync(file.fileno())
            if is_there:
                for path in folder.iterdir():
                    path.rename(out / path.name)
            else:
                folder.rename(out)
            flush_folder(place)
        except OSError as error:
            raise UserError(f"{out} cannot be filled: {error.strerror}") from error
