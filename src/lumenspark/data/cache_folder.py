"""The cache folder, for files that can be regenerated."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from lumenspark.errors import UserError


def cache_folder() -> Path:
    """``LUMENSPARK_CACHE`` if set, else the user's cache folder for this package."""
    return Path(os.environ.get("LUMENSPARK_CACHE") or platformdirs.user_cache_dir("lumenspark"))


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Create ``folder``, and convert OSErrors of the block (disk full, no permission) to UserError.

    The message names the file where the OSError does (:func:`naming`). Reads inside the block must
    not raise OSError; the documents of a corpus raise UserError.
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
    """Add the file name to an OSError of the block, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
