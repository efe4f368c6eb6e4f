"""Text to token ids on disk: encoded once, memory-mapped ever after.

An entry of the cache is a folder ``tokens/<digest>/`` with ``tokenizer.json``, for each split the
ids (``train.bin``) and where its documents begin (``train.offsets.bin``), and ``meta.json``. It is
made under a temporary name, ``meta.json`` last, and renamed when it is whole.

``meta.json`` holds digests of the other files and of itself, which are compared whenever the entry
is read; an entry in which anything is different is made again. Files of more than 64 MiB are
compared by blocks all over them, and whole where that is asked for (``lumenspark prepare``).
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

FORMAT = 2  # of an entry's files; an entry of another format is made again
IDS = 1  # raise it when the same corpus and settings give other ids: no run goes on with them
HEADINGS = ("drop", "keep")
BATCH = 1 << 20  # characters that are encoded at once, on all cores
REPORT_EVERY = 50_000_000  # bytes
CHECKED_WHOLE = 1 << 26  # bytes; of a larger file this many are compared, in 64 blocks
BLOCKS = 64

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
        divided: whether the corpus names no splits, so that its documents were divided.
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
    """The token ids of ``corpus``: from the cache, or learned, encoded and put there.

    Memory does not grow with the corpus, nor with a document: see :func:`.documents.cut` and
    :func:`.tokenizer.training_sample`. Encoding uses all cores.

    Args:
        vocab_size: entries of the tokenizer that is learned from the train split.
        tokenizer_name: use an existing tokenizer instead: a folder or a hub id.
        headings: ``drop`` or ``keep`` titles, headings and blank lines of the wikitext layout.
        needed: splits without which nothing is prepared.
        check_every_byte: compare large files of the cache whole, too.
        cache: instead of ``LUMENSPARK_CACHE`` or the user's cache folder.
        report: is given sentences about what is being done, what is left out, and in the end each
            split with its files, documents, bytes and tokens.

    Raises:
        UserError: text that cannot be read or changes meanwhile, a needed split without text, a
            vocabulary too small, a tokenizer that is not found, or a cache that cannot be written.
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
    wrong = _what_is_wrong(folder, digest, check_every_byte)
    if wrong:
        if folder.exists():
            say(f"the token ids in {folder} are made again: {wrong}")
        corpus.splits()  # a hub set does not know before what it leaves out
    if left_out := corpus.what_is_left_out():
        say(left_out)
    if wrong:
        _require(corpus, needed)
        with writing_below(entries), temporary_folder(entries, ".preparing-") as temporary:
            tokenizer, frame = existing or _learn(corpus, vocab_size, headings, say)
            made = temporary / "made"
            made.mkdir()
            _fill(made, digest, corpus, tokenizer, frame, headings, say)
            _publish(made, folder, digest)
    tokens = _open(folder, digest, corpus)
    for split in needed:
        tokens.splits[split]  # raises where it has no text
    for line in _described(corpus, tokens):
        say(line)
    return tokens


def _require(corpus: Corpus, needed: tuple[str, ...]) -> None:
    """Raise UserError where a split has no text, before any is tokenised."""
    absent = [split for split in needed if split not in corpus.splits()]
    for split in absent or needed:
        next(corpus.pieces(split))  # raises where there is nothing


def _described(corpus: Corpus, tokens: PreparedTokens) -> Iterator[str]:
    """What has been prepared, a line for each split."""
    if tokens.divided:
        yield f"{shown(corpus.name)} names no splits, so it is divided: 90% are for training"
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


def _learn(
    corpus: Corpus, vocab_size: int, headings: str, say: Callable[[str], None]
) -> tuple[Tokenizer, Frame]:
    def texts() -> Iterator[str]:
        pieces = clean_articles(corpus.pieces("train"), corpus.layout, headings)
        return (piece.text for piece in pieces)

    name = shown(corpus.name)
    say(f"learning a vocabulary of {vocab_size:,} entries from the train split of {name}")
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
    """Encode the documents into two files beginning with ``path``; returns what was counted."""
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
    """Give a whole entry its name, unless another process was quicker."""
    if folder.exists() and _what_is_wrong(folder, digest):
        folder.rename(made.with_name("damaged"))  # goes with the temporary folder
    try:
        made.rename(folder)
    except OSError:
        if _what_is_wrong(folder, digest):
            raise
    flush_folder(folder.parent)


def _what_is_wrong(folder: Path, digest: str, every_byte: bool = False) -> str | None:
    """Why an entry cannot be used: it is not there, not whole, or not what was written."""
    if not (folder / "meta.json").is_file():
        return "meta.json is missing"
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        if meta["format"] != FORMAT:
            return "another version of lumenspark wrote them"
        if _meta_digest({key: meta[key] for key in meta if key != "sha256"}) != meta["sha256"]:
            return "meta.json is not what was written"
        if meta["digest"] != digest:
            return "they belong to other text"
        for name, facts in meta["files"].items():
            if not _is_as_written(folder / name, facts, every_byte):
                return f"{name} is not what was written"
    except Exception as error:  # missing, or damaged in whatever way: it can be made again
        return f"they cannot be read ({type(error).__name__})"
    return None


def _meta_digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _file_facts(path: Path) -> dict[str, Any]:
    return {
        "size": path.stat().st_size,
        "sha256": file_digest(path),
        "blocks_sha256": blocks_digest(path),
    }


def _is_as_written(path: Path, facts: dict[str, Any], every_byte: bool) -> bool:
    size = path.stat().st_size
    if size != facts["size"]:
        return False
    if every_byte or size <= CHECKED_WHOLE:
        return file_digest(path) == facts["sha256"]
    return blocks_digest(path) == facts["blocks_sha256"]


def blocks_digest(path: Path) -> str:
    """SHA-256 (hex) over 64 MiB of a file in equally spaced blocks; over all of a smaller one."""
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
