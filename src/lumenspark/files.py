"""Atomic file writes, folder locks and digests.

Files are written under a temporary name that the process locks. The system releases the lock when
the process ends, so an unlocked temporary file is a leftover.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

WAIT_FOR_LOCK = 60.0  # seconds; such locks are held for milliseconds
LARGE = 256 * 2**20  # bytes; larger files are verified by a sample, which avoids slow reads
_PIECES, _PIECE = 64, 2**20
# .evaluation.json.0a1b2c3d, .saving-0a1b2c3d: see _temporary. Earlier versions added letters up to
# z and underscores. Not .env.template.
_TEMPORARY = re.compile(r"\.(.+\.(json|jsonl|md|svg|html|yaml|bin|txt)\.|.+-)[a-z0-9_]{8}")


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``. Raises UserError(``busy``) if another process does."""
    with _file_lock(folder / ".lock", 0.0, busy):
        yield


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Lock ``path`` for a read-modify-write cycle; other processes wait.

    Raises UserError if another process holds the lock for over a minute.
    """
    busy = f"{path} is being changed by another process: try again when it has finished"
    with _file_lock(path.parent / f".{path.name}.lock", WAIT_FOR_LOCK, busy):
        yield


@contextmanager
def _file_lock(path: Path, wait: float, busy: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise UserError(busy) from error
    try:
        yield
    finally:
        lock.release()


def write_file(path: Path, content: str | bytes) -> None:
    """Write ``content`` atomically: to a temporary file in the same folder, flushed and renamed.

    ``path`` has either its old or its complete new content. Raises OSError (disk full, folder not
    writable) that names ``path``. A device or a pipe is refused, since it would be replaced.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))
    data = content.encode() if isinstance(content, str) else content
    try:
        _replace(path, data)
    except OSError as error:  # names no file (disk full) or the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, data: bytes) -> None:
    with _temporary_files_lock(path.parent):
        temporary = _temporary(path.parent, f".{path.name}.")
        file = temporary.open("xb")  # tempfile would make it readable for its owner alone
        _lock(file.fileno())
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written by :func:`write_file`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # folder names may be invalid UTF-8
        data = (json.dumps(value, indent=2) + "\n").encode()
    write_file(path, data)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder in ``parent``, which may be renamed inside the block.

    ``prefix``: such as ``.saving-``. A killed process leaves the folder for
    :func:`remove_leftovers`.
    """
    with _temporary_files_lock(parent):
        folder = _temporary(parent, prefix)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
        if descriptor is not None:
            _lock(descriptor)
    try:
        yield folder
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(parent: Path, prefix: str) -> Path:
    """The path of a new temporary file or folder."""
    return parent / f"{prefix}{secrets.token_hex(4)}"


def give_default_permissions(folder: Path) -> None:
    """Give every file below ``folder`` the permissions of a new file there.

    safetensors writes files that only their owner can read.
    """
    sample = _temporary(folder, ".permissions-")
    sample.touch()
    mode = sample.stat().st_mode & 0o777
    sample.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def remove_leftovers(parent: Path, prefix: str = ".") -> None:
    """Delete temporary files and folders of ended processes in ``parent``.

    Matches any name of a temporary file, so folders shared with other programs need a specific
    ``prefix``.
    """
    if not parent.is_dir():
        return
    with suppress(OSError), _temporary_files_lock(parent):
        for path in parent.iterdir():
            ours = path.name.startswith(prefix) and _TEMPORARY.fullmatch(path.name)
            if ours and not _is_locked(path):
                with suppress(OSError):
                    delete(path)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename ``path`` to ``damaged-…`` in the same folder, and return the new path."""
    aside, number = path.with_name(f"damaged-{path.name}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"damaged-{path.name}-{number}")
    path.rename(aside)
    return aside


@contextmanager
def _temporary_files_lock(folder: Path) -> Iterator[None]:
    """Exclude creation and cleanup of temporary files in ``folder`` by other processes.

    Otherwise a new file could be deleted as a leftover before it is locked. Temporary folders are
    locked by their process already.
    """
    if fcntl is None or _TEMPORARY.fullmatch(folder.name):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool:
    """Whether the process that writes ``path`` is alive, or may be."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sample_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's size and of 64 evenly spaced pieces of 1 MiB.

    Detects truncated and exchanged files; a single altered number may be missed.
    """
    whole = path.stat().st_size
    digest = hashlib.sha256(str(whole).encode())
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(max(0, whole - _PIECE) * number // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) of all .safetensors files of a model folder, sorted by name."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        whole.update(f"{file_digest(path)} {path.name}\n".encode())
    return whole.hexdigest()


def flush_folder(folder: Path) -> None:
    """Flush renames inside ``folder`` to disk (POSIX only)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to ``out`` on success and deleted on an exception.

    If ``out`` exists and is empty, the content is moved into it. Raises UserError if ``out`` is not
    empty, or cannot be created or written.
    """
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already: give a new or empty folder")
    exists = out.exists()
    place = out if exists else out.parent
    with ExitStack() as stack:
        try:
            place.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(temporary_folder(place, f".{out.name}-")) / out.name
            folder.mkdir()
        except OSError as error:
            raise UserError(f"{out} cannot be created: {error.strerror}") from error
        yield folder
        try:
            give_default_permissions(folder)
            for path in folder.rglob("*"):
                if path.is_file():
                    with path.open("rb+") as file:
                        os.fsync(file.fileno())
            if exists:
                for path in folder.iterdir():
                    path.rename(out / path.name)
            else:
                folder.rename(out)
            flush_folder(place)
        except OSError as error:
            raise UserError(f"{out} cannot be written: {error.strerror}") from error
