"""The token cache: a corpus is tokenized once and memory-mapped afterwards.

A cache entry is a folder ``tokens/<digest>/`` with ``tokenizer.json``, token ids (``train.bin``)
and document offsets (``train.offsets.bin``) of each split, and ``meta.json``. It is written under a
temporary name, ``meta.json`` last, and renamed when complete.

``meta.json`` holds digests of all files and of itself, verified on every read; a damaged entry is
rebuilt. Files over 64 MiB are verified by sampled blocks, and in full by ``lumenspark prepare``.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lumenspark.data.cache_folder import cache_folder, naming, writing_below
from lumenspark.data.documents import Corpus, Piece, shown
from lumenspark.data.split_names import SPLITS
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
from lumenspark.errors import UserError, quoted
from lumenspark.files import (
    file_digest,
    flush_folder,
    remove_leftovers,
    temporary_folder,
    write_file,
    write_json,
)

FORMAT = 2  # of the files; entries of other formats are rebuilt
IDS = 1  # increment when the same corpus and settings give different ids: runs cannot resume
HEADINGS = ("drop", "keep")
BATCH = 1 << 20  # characters per encoding batch, on all cores
REPORT_EVERY = 50_000_000  # bytes
CHECKED_WHOLE = 1 << 26  # bytes; larger files are verified by as many bytes in 64 blocks
BLOCKS = 64

Frame = tuple[list[int], list[int]]


@dataclass(frozen=True)
class TokenSplit:
    """The token ids of a split, memory-mapped.

    Attributes:
        ids: uint16, or uint32 for a vocabulary above 65,536: all documents in order, each framed
            by ``<|sot|>`` and ``<|eot|>``.
        offsets: int64, (documents + 1,): document i is ``ids[offsets[i]:offsets[i + 1]]``.
        byte_count: UTF-8 bytes of the cleaned text.
    """

    ids: npt.NDArray[np.integer]
    offsets: npt.NDArray[np.int64]
    byte_count: int


class TokenSplits(dict[str, TokenSplit]):
    """Splits by name; a missing one raises UserError with the reason."""

    def __init__(self, splits: dict[str, TokenSplit], why_missing: Callable[[str], str]) -> None:
        super().__init__(splits)
        self._why_missing = why_missing

    def __missing__(self, split: str) -> TokenSplit:
        raise UserError(self._why_missing(split))


@dataclass(frozen=True)
class PreparedTokens:
    """A tokenized corpus.

    Attributes:
        digest: SHA-256 (hex) of corpus, tokenizer and headings setting.
        folder: the cache entry.
        splits: ``train`` always; ``validation`` and ``test`` if the corpus has them.
        tokenizer: the tokenizer of the ids.
        vocab_size: including special tokens; all ids are smaller.
        divided: whether documents were assigned to splits here (:meth:`.Corpus.is_divided`).
    """

    digest: str
    folder: Path
    splits: TokenSplits
    tokenizer: Tokenizer
    vocab_size: int
    divided: bool


def prepare(
    corpus: Corpus,
    *,
    vocab_size: int = 4096,
    tokenizer_name: str | None = None,
    headings: str = "drop",
    needed: tuple[str, ...] = ("train",),
    check_every_byte: bool = False,
    cache: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> PreparedTokens:
    """Tokenize ``corpus``, or take its token ids from the cache.

    Memory is bounded for any corpus and document size: see :func:`.documents.cut` and
    :func:`.tokenizer.training_sample`. Encoding uses all cores.

    Args:
        vocab_size: of the tokenizer trained on the train split.
        tokenizer_name: an existing tokenizer instead: a folder or a hub id.
        headings: ``drop`` or ``keep`` titles, headings and blank lines of WikiText.
        needed: splits that must have text.
        check_every_byte: verify large cache files in full.
        cache: cache folder; default: :func:`.cache_folder`.
        report: receives progress messages, and a line per split with counts of files, documents,
            bytes and tokens.

    Raises:
        UserError: unreadable or changing text, missing split, vocabulary too small, missing
            tokenizer, or unwritable cache.
    """
    if headings not in HEADINGS:
        raise UserError(f"headings cannot be {quoted(headings)}: choose {' or '.join(HEADINGS)}")
    if tokenizer_name is None and vocab_size < SMALLEST:
        raise UserError(f"a vocabulary of {vocab_size} is too small: it needs {SMALLEST} entries")
    say = report or _silent
    existing = None if tokenizer_name is None else _existing(tokenizer_name)
    if existing is None:
        settings = f"byte-level BPE, NFKC, {vocab_size}"
    else:
        settings = f"{existing[1]} {existing[0].to_str()}"
    identity = json.dumps([IDS, corpus.digest(), settings, headings])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    entries = (cache or cache_folder()) / "tokens"
    folder = entries / digest[:16]
    remove_leftovers(entries)
    wrong = _find_problem(folder, digest, check_every_byte)
    if wrong:
        if folder.exists():
            say(f"rebuilding the token cache {folder}: {wrong}")
        corpus.splits()  # opens a hub dataset, which sets left_out
    if left_out := corpus.describe_left_out():
        say(left_out)
    if wrong:
        _require(corpus, needed)
        with writing_below(entries), temporary_folder(entries, ".preparing-") as temporary:
            tokenizer, frame = existing or _train_tokenizer(corpus, vocab_size, headings, say)
            made = temporary / "made"
            made.mkdir()
            _fill(made, digest, corpus, tokenizer, frame, headings, say)
            _publish(made, folder, digest)
    tokens = _open(folder, digest, corpus)
    for split in needed:
        tokens.splits[split]  # raises for a missing split
    for line in _described(corpus, tokens):
        say(line)
    return tokens


def _require(corpus: Corpus, needed: tuple[str, ...]) -> None:
    """Raise UserError for a missing or empty split, before tokenizing."""
    absent = [split for split in needed if split not in corpus.splits()]
    for split in absent or needed:
        next(corpus.pieces(split))  # raises for an empty split


def _described(corpus: Corpus, tokens: PreparedTokens) -> Iterator[str]:
    """A line of counts per split."""
    if tokens.divided:
        yield f"{shown(corpus.name)} has no splits: 90% of its text is for training"
    for name, split in tokens.splits.items():
        files = corpus.file_count(name)
        counts = [] if files is None else [_counted(files, "file")]
        counts += [_counted(len(split.offsets) - 1, "document"), _counted(split.byte_count, "byte")]
        yield f"{name}: {', '.join(counts)}, {_counted(len(split.ids), 'token')}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _silent(sentence: str) -> None:
    pass


def _existing(name: str) -> tuple[Tokenizer, Frame]:
    loaded = load_tokenizer(name)
    tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, document_frame(loaded)


def _train_tokenizer(
    corpus: Corpus, vocab_size: int, headings: str, say: Callable[[str], None]
) -> tuple[Tokenizer, Frame]:
    def texts() -> Iterator[str]:
        pieces = clean_articles(corpus.pieces("train"), corpus.layout, headings)
        return (piece.text for piece in pieces)

    name = shown(corpus.name)
    say(f"training a tokenizer with {vocab_size:,} entries on the train split of {name}")
    tokenizer = train_tokenizer(training_sample(texts, corpus.size("train")), vocab_size)
    if tokenizer.get_vocab_size() < vocab_size:
        say(f"the text yields only {tokenizer.get_vocab_size():,} entries")
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
    """Write all files of an entry; ``meta.json``, written last, marks it complete."""
    write_file(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    # Ids of an existing tokenizer may have gaps, so the highest id counts.
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    # A literal "<|eot|>" in the text is encoded as characters, not as the special token.
    tokenizer.encode_special_tokens = True
    splits = {}
    for split in SPLITS:
        if split not in corpus.splits():
            continue
        pieces = clean_articles(corpus.documents(split), corpus.layout, headings)
        counts = _encode(pieces, tokenizer, frame, folder / split, dtype, say)
        if counts["documents"]:
            splits[split] = counts
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
        "divided": corpus.is_divided(),
        "splits": splits,
        "files": {path.name: _file_facts(path) for path in sorted(folder.iterdir())},
    }
    corpus.check_unchanged()
    write_json(folder / "meta.json", {**meta, "sha256": _meta_digest(meta)})


def _encode(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    frame: Frame,
    path: Path,
    dtype: np.dtype[Any],
    say: Callable[[str], None],
) -> dict[str, int]:
    """Encode the documents into ids and offsets files next to ``path``. Returns their counts."""
    begin, end = (np.array(ids, dtype).tobytes() for ids in frame)
    tokens = documents = byte_count = 0
    with (
        naming(_ids_path(path)),
        _ids_path(path).open("wb") as ids_file,
        _offsets_path(path).open("wb") as offsets_file,
    ):
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
    """Rename a complete entry to its final name, unless another process did it first."""
    if folder.exists() and _find_problem(folder, digest):
        folder.rename(made.with_name("damaged"))  # deleted with the temporary folder
    try:
        made.rename(folder)
    except OSError:
        if _find_problem(folder, digest):
            raise
    flush_folder(folder.parent)


def _find_problem(folder: Path, digest: str, every_byte: bool = False) -> str | None:
    """Why a cache entry is unusable: missing, incomplete or damaged; None for a valid one."""
    if not (folder / "meta.json").is_file():
        return "meta.json is missing"
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        if meta["format"] != FORMAT:
            return "written by another version of lumenspark"
        if _meta_digest({key: meta[key] for key in meta if key != "sha256"}) != meta["sha256"]:
            return "meta.json is damaged"
        if meta["digest"] != digest:
            return "they belong to another corpus"
        for name, facts in meta["files"].items():
            if not _is_intact(folder / name, facts, every_byte):
                return f"{name} is damaged"
    except Exception as error:  # missing or damaged: rebuilt
        return f"unreadable ({type(error).__name__})"
    return None


def _meta_digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _file_facts(path: Path) -> dict[str, Any]:
    return {
        "size": path.stat().st_size,
        "sha256": file_digest(path),
        "blocks_sha256": blocks_digest(path),
    }


def _is_intact(path: Path, facts: dict[str, Any], every_byte: bool) -> bool:
    size = path.stat().st_size
    if size != facts["size"]:
        return False
    if every_byte or size <= CHECKED_WHOLE:
        return file_digest(path) == facts["sha256"]
    return blocks_digest(path) == facts["blocks_sha256"]


def blocks_digest(path: Path) -> str:
    """SHA-256 (hex) of 64 MiB of a file in equally spaced blocks; of all of a smaller file."""
    size = path.stat().st_size
    block = CHECKED_WHOLE // BLOCKS
    whole = hashlib.sha256()
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(max(number * block, number * (size - block) // (BLOCKS - 1)))
            whole.update(file.read(block))
    return whole.hexdigest()


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
        divided=meta["divided"],
    )


def _ids_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.bin")


def _offsets_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.offsets.bin")
