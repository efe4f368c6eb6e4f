"""Text to token ids on disk: encoded once, memory-mapped ever after.

An entry of the cache is a folder ``tokens/<digest>/`` with ``tokenizer.json``, for each split the
ids (``train.bin``) and where its documents begin (``train.offsets.bin``), and ``meta.json``. It is
made under a temporary name, ``meta.json`` last, and renamed when it is whole.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lumenspark.data.cache import cache_folder, writing_below
from lumenspark.data.documents import SPLITS, Corpus, Piece
from lumenspark.data.tokenizer import (
    EOT_ID,
    SMALLEST,
    SOT_ID,
    document_frame,
    load_tokenizer,
    train_tokenizer,
    training_sample,
)
from lumenspark.data.wikitext import clean_articles
from lumenspark.errors import UserError
from lumenspark.files import flush_folder, write_file, write_json

FORMAT = 1  # raise it when the same corpus and settings give other files
HEADINGS = ("drop", "keep")
BATCH = 1 << 20  # characters that are encoded at once, on all cores
REPORT_EVERY = 50_000_000  # bytes
DAY = 24 * 60 * 60  # seconds

Frame = tuple[list[int], list[int]]


@dataclass(frozen=True)
class TokenSplit:
    """The ids of a split, memory-mapped.

    Attributes:
        ids: uint16, or uint32 for a vocabulary of more than 65,536: all documents, one after the
            other, each in its frame (``<|sot|> … <|eot|>``).
        offsets: int64, (documents + 1,): document i is ``ids[offsets[i]:offsets[i + 1]]``.
        byte_count: UTF-8 bytes of the cleaned text.
    """

    ids: npt.NDArray[np.integer]
    offsets: npt.NDArray[np.int64]
    byte_count: int


class TokenSplits(dict[str, TokenSplit]):
    """By name. Asking for one that the corpus does not have is a UserError that says why."""

    def __init__(self, splits: dict[str, TokenSplit], why_missing: Callable[[str], str]) -> None:
        super().__init__(splits)
        self._why_missing = why_missing

    def __missing__(self, split: str) -> TokenSplit:
        raise UserError(self._why_missing(split))


@dataclass(frozen=True)
class PreparedTokens:
    """A corpus as token ids.

    Attributes:
        digest: SHA-256 (hex) over the corpus, the tokenizer and the treatment of headings.
        folder: the entry in the cache.
        splits: ``train`` always; ``validation`` and ``test`` where the corpus has text for them.
        tokenizer: the one that made the ids.
        vocab_size: its entries, special tokens included; every id is smaller.
    """

    digest: str
    folder: Path
    splits: TokenSplits
    tokenizer: Tokenizer
    vocab_size: int


def prepare(
    corpus: Corpus,
    *,
    vocab_size: int = 4096,
    tokenizer_name: str | None = None,
    headings: str = "drop",
    cache: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> PreparedTokens:
    """The token ids of ``corpus``: from the cache, or learned, encoded and put there.

    Memory does not grow with the corpus, nor with a document: see :func:`.documents.cut` and
    :func:`.tokenizer.training_sample`. Encoding uses all cores.

    Args:
        vocab_size: entries of the tokenizer that is learned from the train split.
        tokenizer_name: use an existing tokenizer instead: a folder or a hub id.
        headings: ``drop`` or ``keep`` titles, headings and blank lines of the wikitext layout.
        cache: instead of ``LUMENSPARK_CACHE`` or the user's cache folder.
        report: is given sentences about what is being done.

    Raises:
        UserError: text that cannot be read, a train split without text, a vocabulary too small,
            a tokenizer that is not found, or a cache that cannot be written.
    """
    if headings not in HEADINGS:
        raise UserError(f"headings cannot be {headings!r}: choose {' or '.join(HEADINGS)}")
    if tokenizer_name is None and vocab_size < SMALLEST:
        raise UserError(f"a vocabulary of {vocab_size} is too small: it needs {SMALLEST} entries")
    existing = None if tokenizer_name is None else _existing(tokenizer_name)
    if existing is None:
        settings = f"byte-level BPE, NFKC, {vocab_size}"
    else:
        settings = f"{existing[1]} {existing[0].to_str()}"
    identity = json.dumps([FORMAT, corpus.digest(), settings, headings])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    entries = (cache or cache_folder()) / "tokens"
    folder = entries / digest[:16]
    if not _complete(folder, digest):
        say = report or _silent
        with (
            writing_below(entries),
            tempfile.TemporaryDirectory(dir=entries, prefix=".") as temporary,
        ):
            _remove_leftovers(entries)
            tokenizer, frame = existing or _learn(corpus, vocab_size, headings, say)
            made = Path(temporary, "made")
            made.mkdir()
            _fill(made, digest, corpus, tokenizer, frame, headings, say)
            _publish(made, folder, digest)
    return _open(folder, digest, corpus)


def _silent(sentence: str) -> None:
    pass


def _existing(name: str) -> tuple[Tokenizer, Frame]:
    loaded = load_tokenizer(name)
    tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, document_frame(loaded)


def _learn(
    corpus: Corpus, vocab_size: int, headings: str, say: Callable[[str], None]
) -> tuple[Tokenizer, Frame]:
    def texts() -> Iterator[str]:
        pieces = clean_articles(corpus.pieces("train"), corpus.layout, headings)
        return (piece.text for piece in pieces)

    say(f"learning a vocabulary of {vocab_size:,} entries from the train split of {corpus.name}")
    tokenizer = train_tokenizer(training_sample(texts, corpus.size("train")), vocab_size)
    if tokenizer.get_vocab_size() < vocab_size:
        say(f"the text gives no more than {tokenizer.get_vocab_size():,} entries")
    return tokenizer, ([SOT_ID], [EOT_ID])


def _fill(
    folder: Path,
    digest: str,
    corpus: Corpus,
    tokenizer: Tokenizer,
    frame: Frame,
    headings: str,
    say: Callable[[str], None],
) -> None:
    """All files of an entry; ``meta.json`` is the last and marks it as complete."""
    write_file(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    # An existing tokenizer may have gaps among its ids, so the highest one counts.
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    # Text that happens to contain "<|eot|>" is encoded as these characters, not as the end.
    tokenizer.encode_special_tokens = True
    splits = {}
    for split in SPLITS:
        if split not in corpus.splits():
            continue
        pieces = clean_articles(corpus.documents(split), corpus.layout, headings)
        counts = _encode(pieces, tokenizer, frame, folder / split, dtype, say)
        if counts["documents"]:
            splits[split] = counts
            say("{}: {tokens:,} tokens in {documents:,} documents".format(split, **counts))
    if "train" not in splits:
        raise UserError(corpus.missing("train"))
    meta = {
        "format": FORMAT,
        "digest": digest,
        "corpus": corpus.name,
        "layout": corpus.layout,
        "headings": headings,
        "vocab_size": vocab_size,
        "dtype": dtype.str,
        "splits": splits,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    write_json(folder / "meta.json", meta)


def _encode(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    frame: Frame,
    path: Path,
    dtype: np.dtype[Any],
    say: Callable[[str], None],
) -> dict[str, int]:
    """Encode the documents into two files beginning with ``path``; returns what was counted."""
    begin, end = (np.array(ids, dtype).tobytes() for ids in frame)
    tokens = documents = byte_count = 0
    with _ids_path(path).open("wb") as ids_file, _offsets_path(path).open("wb") as offsets_file:
        offsets_file.write(np.int64(0).astype("<i8").tobytes())
        for batch in _batches(pieces):
            texts = [piece.text for piece in batch]
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for piece, encoding in zip(batch, encodings, strict=True):
                data = np.array(encoding.ids, dtype).tobytes()
                data = begin * piece.starts + data + end * piece.ends
                ids_file.write(data)
                tokens += len(data) // dtype.itemsize
                if piece.ends:
                    documents += 1
                    offsets_file.write(np.int64(tokens).astype("<i8").tobytes())
            before, byte_count = byte_count, byte_count + sum(len(text.encode()) for text in texts)
            if before // REPORT_EVERY != byte_count // REPORT_EVERY:
                say(f"{path.name}: {byte_count / 1e6:,.0f} MB encoded")
        for file in (ids_file, offsets_file):
            file.flush()
            os.fsync(file.fileno())
    return {"tokens": tokens, "documents": documents, "bytes": byte_count}


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _publish(made: Path, folder: Path, digest: str) -> None:
    """Give a whole entry its name, unless another process was quicker."""
    if folder.exists() and not _complete(folder, digest):
        folder.rename(made.with_name("damaged"))  # goes with the temporary folder
    try:
        made.rename(folder)
    except OSError:
        if not _complete(folder, digest):
            raise
    flush_folder(folder.parent)


def _remove_leftovers(entries: Path) -> None:
    """Delete temporary folders in which nothing was written for a day: their process was killed."""
    for folder in entries.glob(".*"):
        with suppress(FileNotFoundError):  # another process has finished with it
            written = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if folder.is_dir() and time.time() - written > DAY:
                shutil.rmtree(folder, ignore_errors=True)


def _complete(folder: Path, digest: str) -> bool:
    """Whether the entry is whole: of this digest, and each file of the size that it should have."""
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
        return meta["digest"] == digest and sizes == meta["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open(folder: Path, digest: str, corpus: Corpus) -> PreparedTokens:
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    splits = {
        split: TokenSplit(
            ids=np.memmap(_ids_path(folder / split), meta["dtype"], mode="r"),
            offsets=np.memmap(_offsets_path(folder / split), "<i8", mode="r"),
            byte_count=counts["bytes"],
        )
        for split, counts in meta["splits"].items()
    }
    return PreparedTokens(
        digest=digest,
        folder=folder,
        splits=TokenSplits(splits, corpus.missing),
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
        vocab_size=meta["vocab_size"],
    )


def _ids_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.bin")


def _offsets_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.offsets.bin")
