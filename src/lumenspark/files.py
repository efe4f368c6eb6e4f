"""Writing files so that a crash never leaves half of one, and holding folders against others.

What is being written has a temporary name, and its process holds a lock on it. The system releases
that lock when the process ends, however it ends, so a temporary file without one is a leftover.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

WAIT_FOR_LOCK = 60.0  # seconds; what is done under such a lock takes milliseconds
LARGE = 256 * 2**20  # bytes of a file that a sample stands for: reading it all takes a second
_PIECES, _PIECE = 64, 2**20
# .evaluation.json.k3x9_2ab, .saving-k3x9_2ab: what tempfile adds has eight characters. Not
# .env.template.
_TEMPORARY = re.compile(r"\.(.+\.(json|jsonl|md|svg|html|yaml|bin|txt)\.|.+-)[a-z0-9_]{8}")


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Inside, no other process holds ``folder``. Raises UserError(``busy``) where one does."""
    with _file_lock(folder / ".lock", 0.0, busy):
        yield


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Inside, ``path`` may be read, changed and written: other processes wait with theirs.

    Raises UserError where another process has not finished within a minute.
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
    """Write ``content`` to a temporary name in the same folder, flush it to disk, rename it.

    Whatever happens, ``path`` holds either its old content or all of the new one. Raises OSError
    (disk full, folder not writable), which names ``path``, with the old file untouched. A device or
    a pipe is refused, since the file would take its place.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a device or a pipe, where a file is written", str(path))
    data = content.encode() if isinstance(content, str) else content
    try:
        _replace(path, data)
    except OSError as error:  # that of a full disk names no file, others the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, data: bytes) -> None:
    with _alone_in(path.parent):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        _hold(descriptor)
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
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # the name of a folder need not be UTF-8
        data = (json.dumps(value, indent=2) + "\n").encode()
    write_file(path, data)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent``, for the length of the block. It may be renamed inside it.

    ``prefix`` is such as ``.saving-``. A process that is killed leaves the folder behind, for
    :func:`remove_leftovers` to find.
    """
    with _alone_in(parent):
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
        if descriptor is not None:
            _hold(descriptor)
    try:
        yield folder
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path, prefix: str = ".") -> None:
    """Delete the temporary files and folders in ``parent`` whose process is no more.

    Whatever is named like a temporary file counts, so a folder that is not this package's own
    needs a ``prefix`` that is.
    """
    if not parent.is_dir():
        return
    with suppress(OSError), _alone_in(parent):
        for path in parent.iterdir():
            ours = path.name.startswith(prefix) and _TEMPORARY.fullmatch(path.name)
            if ours and not _is_held(path):
                with suppress(OSError):
                    delete(path)


def delete(path: Path) -> None:
    """Delete a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename ``path`` to ``damaged-…`` beside it, out of the way, and return where it is now."""
    aside, number = path.with_name(f"damaged-{path.name}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"damaged-{path.name}-{number}")
    path.rename(aside)
    return aside


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process makes a temporary file in ``folder`` or looks for leftovers.

    Without it a file could be taken for a leftover between its making and its lock. A temporary
    folder is its process's own, and locked already.
    """
    if fcntl is None or _TEMPORARY.fullmatch(folder.name):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(descriptor: int) -> None:
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    """Whether the process that makes ``path`` is alive, or cannot be known not to be."""
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
    """SHA-256 (hex) of a file's size and of 64 pieces of 1 MiB, evenly spread over it.

    Enough to see a file that was cut short or is another; one altered number may be missed.
    """
    whole = path.stat().st_size
    digest = hashlib.sha256(str(whole).encode())
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(max(0, whole - _PIECE) * number // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) over every .safetensors file of a model folder, by name: what was scored."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        whole.update(f"{file_digest(path)} {path.name}\n".encode())
    return whole.hexdigest()


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
    with ExitStack() as stack:
        try:
            place.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(temporary_folder(place, f".{out.name}-")) / out.name
            folder.mkdir()
        except OSError as error:
            raise UserError(f"{out} cannot be made: {error.strerror}") from error
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
