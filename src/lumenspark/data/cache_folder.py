"""Where files are kept that can be made again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from lumenspark.errors import UserError


def cache_folder() -> Path:
    """``LUMENSPARK_CACHE`` where it is set, else the user's cache folder for this package."""
    return Path(os.environ.get("LUMENSPARK_CACHE") or platformdirs.user_cache_dir("lumenspark"))


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Make ``folder``; a failure to write (disk full, no permission) becomes a UserError.

    It names the file, where the OSError does (:func:`naming`).
    Every OSError inside counts as one: what is read there has to fail in another way, as the
    documents of a corpus do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error}): "
            "free some space, or set LUMENSPARK_CACHE to another folder"
        ) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError inside, such as that of a full disk, the name of the file it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
