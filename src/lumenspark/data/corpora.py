"""Open a corpus by name: file, folder, built-in corpus or hub dataset."""

import re
from pathlib import Path

from lumenspark.data.auto import wikitext_2_at_hand
from lumenspark.data.documents import Corpus, Piece, shown
from lumenspark.data.file_discovery import KINDS
from lumenspark.data.file_reader import COMPRESSED
from lumenspark.data.hub_datasets import WIKITEXT, open_hub, open_wikitext_2
from lumenspark.data.local_files import open_files
from lumenspark.data.python_docs import is_python_docs, open_python_docs
from lumenspark.data.split_names import SPLITS
from lumenspark.data.tales.corpus import Tales, is_tales
from lumenspark.data.wikitext import clean_articles
from lumenspark.errors import UserError, first_line, quoted

__all__ = ["LAYOUTS", "SPLITS", "Corpus", "Piece", "clean_articles", "open_corpus"]

AUTO = "auto"
EMBEDDED = "tales"
"""The corpus that needs neither network nor cache, which ``auto`` falls back to."""
LAYOUTS = ("auto", "plain", "wikitext")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ENDINGS = "|".join(map(re.escape, (*KINDS, *COMPRESSED)))
_PATH_LIKE = re.compile(rf"[./~\\]|.*[/\\]$|.*(?:{_ENDINGS})$", re.IGNORECASE)


def open_corpus(
    source: str,
    *,
    layout: str = "auto",
    revision: str | None = None,
    config: str | None = None,
    text_field: str = "text",
    streaming: bool = False,
) -> Corpus:
    """The corpus named ``source``: the first of these that exists.

    1. a file or folder of .txt, .md, .jsonl, .csv, .parquet, … (:class:`.local_files.LocalFiles`),
    2. ``tales``, stories made here, and ``tales-100mb`` for another size than 20 MB,
    3. ``python-docs``, from the Python installation; ``python-docs-3.11.7`` insists on a version,
    4. ``wikitext-2``, from the hub at a fixed revision,
    5. ``auto``: ``wikitext-2`` from a local cache, or from the hub if that answers within seconds,
       else :data:`EMBEDDED`; the corpus' ``note`` says which and why,
    6. a hub dataset ``org/name``.

    Args:
        layout: ``plain``, ``wikitext``, or ``auto`` (from the start of the first file).
        revision: hub only: branch, tag or commit; None: the default branch, or the pinned commit
            of ``wikitext-2``.
        config: the hub configuration (none for ``wikitext-2``); for a local folder, a folder
            inside it.
        text_field: field or column with the text, in files of rows and hub datasets.
        streaming: hub only: stream over the network without a local copy.

    Raises:
        UserError: unknown ``source``, unreadable file, or unreachable hub.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {quoted(layout)}: choose one of {', '.join(LAYOUTS)}")
    here = existing(source)
    if here is not None:
        return open_files(str(here), layout, config, text_field)
    if is_tales(source):
        return Tales(source)
    if is_python_docs(source):
        return open_python_docs(source)
    if source == AUTO:
        if revision is not None or config is not None:
            raise UserError(
                "auto takes wikitext-2 at a fixed revision, or the embedded corpus: omit revision "
                "and config, or name the data"
            )
        return _open_auto()
    if source == "wikitext-2":
        if config is not None:
            raise UserError(
                "wikitext-2 has a single configuration: omit the config, or use "
                f"{WIKITEXT} as the data for another one"
            )
        return open_wikitext_2(revision=revision, streaming=streaming)
    if _PATH_LIKE.match(source):
        raise UserError(f"there is no file or folder {shown(source)}: check the path")
    if not _HUB_ID.fullmatch(source):
        raise UserError(
            f"there is no corpus {quoted(source)}: give a file or folder, auto, tales, "
            "python-docs, wikitext-2, or the id of a hub dataset such as org/name"
        )
    return open_hub(
        source,
        layout=layout,
        revision=revision,
        config=config,
        text_field=text_field,
        streaming=streaming,
    )


def is_built_in(source: str) -> bool:
    """Whether a name is that of a corpus known to this package, not a path or a hub id."""
    return source in {AUTO, "wikitext-2"} or is_tales(source) or is_python_docs(source)


def _open_auto() -> Corpus:
    wikitext, reason = wikitext_2_at_hand()
    if wikitext is not None:
        wikitext.note = f"data: auto is {wikitext.name}, {reason}"
        return wikitext
    embedded = open_corpus(EMBEDDED)
    embedded.note = f"data: auto is {embedded.name}, since {reason}"
    return embedded


def existing(source: str) -> Path | None:
    """The file or folder named ``source``; None if it does not exist.

    Raises:
        UserError: an invalid path, or one without permission.
    """
    if not source.strip():
        raise UserError("the name is empty: give a file, a folder or a hub id")
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long; ~nobody; no permission
        raise UserError(
            f"there is nothing at {quoted(source)} ({first_line(error)}): check the path"
        ) from error
