"""Corpora from the Hugging Face Hub, loaded by ``datasets``."""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lumenspark.data.documents import (
    SHARES,
    Corpus,
    Piece,
    cut,
    in_split,
    listed,
    row_text,
)
from lumenspark.data.hub_cache import cached_dataset
from lumenspark.data.rows import guarded
from lumenspark.data.split_names import SPLITS, split_by_name
from lumenspark.data.wikitext import articles, lines_from_rows
from lumenspark.errors import UserError, first_line, reading
from lumenspark.hub import offline_message, repo_info

WIKITEXT = "Salesforce/wikitext"
WIKITEXT_2 = "wikitext-2-raw-v1"
WIKITEXT_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
WIKITEXT_LICENSE = "CC BY-SA"

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubDataset(Corpus):
    """A text dataset on the hub: one document per row, or one line per row in WikiText layout.

    A dataset with ``train`` as its only split is divided by the hash of its documents. Nothing is
    downloaded before the first access to a split.
    """

    def __init__(
        self,
        name: str,
        hub_id: str,
        *,
        revision: str,
        config: str | None = None,
        layout: str = "plain",
        text_field: str = "text",
        streaming: bool = False,
    ) -> None:
        self.name = name
        self.hub_id = hub_id
        self.revision = revision
        self.layout = layout
        self.config = config
        self.text_field = text_field
        self._streaming = streaming

    def digest(self) -> str:
        parts = (self.hub_id, self.config, self.revision, self.layout, self.text_field)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def splits(self) -> tuple[str, ...]:
        if self._train_alone():
            return SPLITS
        return tuple(split for split in SPLITS if split in self._sets)

    def missing(self, split: str) -> str:
        if split not in SPLITS or split in self.splits():
            return super().missing(split)
        return (
            f"{self.name} has no {split} split, only {', '.join(self.splits())}: choose another "
            "dataset or config, or download it and name its files after splits"
        )

    def is_divided(self) -> bool:
        return self._train_alone()

    def is_cached(self) -> bool:
        """Whether this commit is in a cache of this machine, so that no request is needed."""
        return self._cached is not None

    @cached_property
    def _cached(self) -> dict[str, Any] | None:
        assert self.hub_id is not None
        assert self.revision is not None
        if self._streaming or Path(self.hub_id).is_dir():
            return None
        return cached_dataset(self.hub_id, self.revision, self.config)

    def _train_alone(self) -> bool:
        return set(self._sets) == {"train"}

    def size(self, split: str) -> int | None:
        rows = self._sets["train" if self._train_alone() else split]
        with reading(f"the size of {self.name}", "try again"):
            known = (rows.info.splits or {}).get(str(rows.split))
            if known is None or not known.num_bytes:
                return None
            return int(known.num_bytes * (SHARES[split] if self._train_alone() else 1))

    def documents(self, split: str) -> Iterator[Piece]:
        if self._train_alone():
            yield from in_split(self._documents("train"), split)
        else:
            yield from self._documents(split)

    def _documents(self, split: str) -> Iterator[Piece]:
        texts = self._rows(split)
        if self.layout == "wikitext":
            yield from articles(lines_from_rows(texts))
        else:
            for text in texts:
                yield from cut([text])

    def _rows(self, split: str) -> Iterator[str]:
        # a failure is that of the connection when streaming, else of the hub cache
        rows = guarded(self._sets[split], f"{self.name}, {split}", "try again")
        for number, row in enumerate(rows, start=1):
            text = row_text(row, self.text_field, f"{self.name}, {split}, row {number}")
            if text is not None:
                yield text

    @cached_property
    def _sets(self) -> dict[str, Any]:
        """The rows by split, under this package's names."""
        found = self._cached or self._load()
        sets: dict[str, Any] = {}
        for name, rows in sorted(found.items(), key=lambda item: item[0] not in SPLITS):
            split = split_by_name(name)
            if split in SPLITS and split not in sets:
                sets[split] = rows
            else:
                self.left_out += (name,)
        if not sets:
            raise UserError(
                f"{self.hub_id} has no train, validation or test split, only "
                f"{listed(list(found)) or 'none'}: choose another dataset or config"
            )
        return sets

    def _load(self) -> dict[str, Any]:
        """The rows, downloaded."""
        from datasets import load_dataset

        assert self.hub_id is not None
        assert self.revision is not None
        on_hub = not Path(self.hub_id).is_dir()
        if on_hub:  # `datasets` takes half a minute to fail, and offline takes any commit
            info = repo_info("dataset", self.hub_id, self.revision, self.config)
            if info is None:
                raise UserError(
                    f"{self.hub_id} at revision {self.revision} is not in the cache, and "
                    "HF_HUB_OFFLINE is set: download it, or give another text with --data"
                )
        try:
            found = load_dataset(
                self.hub_id, self.config, revision=self.revision, streaming=self._streaming
            )
            rows = {str(name): split for name, split in found.items()}
        except ConnectionError:
            raise UserError(offline_message("dataset", str(self.hub_id), self.config)) from None
        # Missing dataset, file or config, a script dataset, a full disk, or a parser error.
        except Exception as error:
            reason = ": ".join(map(first_line, filter(None, (error, error.__cause__))))
            raise UserError(
                f"the dataset {self.hub_id} cannot be loaded: {reason}; choose another dataset or "
                "config"
            ) from error
        if on_hub and not self._streaming and not _is_of(rows, self.revision):
            raise UserError(
                f"{self.hub_id} cannot be loaded at revision {self.revision}, only at another one, "
                "which is in the cache: try again"
            )
        return rows


def open_hub(
    hub_id: str,
    *,
    layout: str,
    revision: str | None,
    config: str | None,
    text_field: str,
    streaming: bool,
) -> HubDataset:
    """The dataset ``hub_id``. Layout ``auto`` is wikitext for the WikiText datasets, else plain.

    Resolving the revision needs the network, unless it is a full commit id.
    """
    commit, info = _resolve(hub_id, revision)
    if layout == "auto":
        layout = "wikitext" if hub_id.lower() == WIKITEXT.lower() else "plain"
    corpus = HubDataset(
        hub_id,
        hub_id,
        revision=commit,
        config=config,
        layout=layout,
        text_field=text_field,
        streaming=streaming,
    )
    card = info.card_data if info else None
    corpus.license = next(iter(_texts(card, "license")), None)
    languages = _texts(card, "language")
    corpus.language = languages[0] if len(languages) == 1 else None
    return corpus


def open_wikitext_2(*, revision: str | None = None, streaming: bool = False) -> HubDataset:
    """WikiText-2 raw as published, at a pinned revision by default."""
    corpus = HubDataset(
        "wikitext-2",
        WIKITEXT,
        revision=_resolve(WIKITEXT, revision or WIKITEXT_REVISION)[0],
        config=WIKITEXT_2,
        layout="wikitext",
        streaming=streaming,
    )
    corpus.license = WIKITEXT_LICENSE
    corpus.language = "en"
    return corpus


def _resolve(hub_id: str, revision: str | None) -> tuple[str, Any | None]:
    """The full commit id, and the dataset info if the hub was queried."""
    if revision and _COMMIT.fullmatch(revision):
        return revision, None
    info = repo_info("dataset", hub_id, revision)
    if info is None:
        raise UserError(
            f"the latest revision of {hub_id} cannot be looked up offline: "
            "give the revision as a full commit id"
        )
    return str(info.sha), info


def _is_of(rows: dict[str, Any], revision: str) -> bool:
    """Whether all rows are of a commit; where loading fails, `datasets` takes any cached one."""
    files = (Path(file["filename"]) for split in rows.values() for file in split.cache_files)
    return all(file.parent.name == revision for file in files)


def _texts(card: object, field: str) -> list[str]:
    """The strings of a card field, whose type is not guaranteed."""
    value = getattr(card, field, None)
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
