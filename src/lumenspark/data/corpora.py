"""Where text comes from: the one function that opens a corpus by what a user calls it."""

import re
from pathlib import Path

from lumenspark.data.documents import Corpus, Piece, shown
from lumenspark.data.file_discovery import KINDS
from lumenspark.data.file_reader import COMPRESSED
from lumenspark.data.hub_datasets import WIKITEXT, open_hub, open_wikitext_2
from lumenspark.data.local_files import open_files
from lumenspark.data.python_docs import PythonDocs
from lumenspark.data.split_names import SPLITS
from lumenspark.data.wikitext import clean_articles
from lumenspark.errors import UserError, first_line, quoted

__all__ = ["LAYOUTS", "SPLITS", "Corpus", "Piece", "clean_articles", "open_corpus"]

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
    """The corpus that ``source`` names. The first of these that exists:

    1. a file or folder of .txt, .md, .jsonl, .csv, .parquet, … (:class:`.local_files.LocalFiles`),
    2. ``python-docs``, which every Python carries with it,
    3. ``wikitext-2``, from the hub at a fixed revision,
    4. a data set on the hub, by its id ``org/name``.

    Args:
        layout: ``plain``, ``wikitext``, or ``auto``: looks at the start of the first file.
        revision: hub only: branch, tag or commit. Where it is None: the default branch, but for
            ``wikitext-2`` its fixed commit.
        config: the hub configuration (none for ``wikitext-2``); for a local folder, a folder
            inside it.
        text_field: the field or column that holds the text, in rows of files and hub sets.
        streaming: hub only: read over the network without keeping a copy.

    Raises:
        UserError: ``source`` is none of these, a file cannot be read, or the hub not reached.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {quoted(layout)}: choose one of {', '.join(LAYOUTS)}")
    here = existing(source)
    if here is not None:
        return open_files(str(here), layout, config, text_field)
    if source == "python-docs":
        return PythonDocs()
    if source == "wikitext-2":
        if config is not None:
            raise UserError(
                "wikitext-2 is one configuration already: leave out the config, or give "
                f"{WIKITEXT} as the data for another"
            )
        return open_wikitext_2(revision=revision, streaming=streaming)
    if _PATH_LIKE.match(source):
        raise UserError(f"there is no file or folder {shown(source)}: check the path")
    if not _HUB_ID.fullmatch(source):
        raise UserError(
            f"there is no corpus {quoted(source)}: it is not a file or folder here, not python-docs"
            " or wikitext-2, and not a data set on the hub, which has an id like org/name"
        )
    return open_hub(
        source,
        layout=layout,
        revision=revision,
        config=config,
        text_field=text_field,
        streaming=streaming,
    )


def existing(source: str) -> Path | None:
    """The file or folder that ``source`` names, None where there is none.

    Raises:
        UserError: what no file can be called, or a path that may not be looked at.
    """
    if not source.strip():
        raise UserError("the name is empty: give a file, a folder or an id of the hub")
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long; ~nobody; no permission
        raise UserError(
            f"there is nothing at {quoted(source)} ({first_line(error)}): check the path"
        ) from error
