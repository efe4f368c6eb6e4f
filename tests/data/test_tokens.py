"""Preparing a corpus: the ids, the cache, and what happens when something is wrong."""

import hashlib
import json
import os
import random
import subprocess
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lumenspark.data.corpora import clean_articles, open_corpus
from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.data.tokens import PreparedTokens, TokenSplit, prepare
from lumenspark.errors import UserError

LINES = "".join(f"Line {i} says ﬁfty-{i % 9} things ; naïve ones .\n" for i in range(400))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two documents for training, one for testing, none for validation."""
    for name, text in {"train/a": LINES, "train/b": "B: <|eot|>\n", "test/a": LINES[:900]}.items():
        path = tmp_path / "text" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "text"


def prepared(folder: Path, **options: object) -> PreparedTokens:
    return prepare(open_corpus(str(folder)), **{"vocab_size": 300} | options)  # type: ignore[arg-type]


def documents(tokens: PreparedTokens, split: str) -> list[list[int]]:
    part = tokens.splits[split]
    return [
        part.ids[begin:end].tolist()
        for begin, end in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]


def test_every_document_is_framed_and_decodes_to_its_text(folder: Path) -> None:
    tokens = prepared(folder)
    a, b = documents(tokens, "train")
    for ids, text in ((a, LINES), (b, "B: <|eot|>\n")):
        assert (ids[0], ids[-1]) == (0, 1)
        assert not {0, 1, 2} & set(ids[1:-1])  # the text's own "<|eot|>" is no special token
        decoded = tokens.tokenizer.decode(ids[1:-1], skip_special_tokens=False)
        assert decoded == unicodedata.normalize("NFKC", text)


def test_counts_types_and_bytes(folder: Path) -> None:
    tokens = prepared(folder)
    train = tokens.splits["train"]
    assert isinstance(train, TokenSplit)
    assert train.ids.dtype == np.uint16
    assert train.offsets.dtype == np.int64
    assert (train.offsets[0], train.offsets[-1]) == (0, len(train.ids))
    assert train.byte_count == len((LINES + "B: <|eot|>\n").encode())
    assert tokens.vocab_size == tokens.tokenizer.get_vocab_size() == 300
    assert not train.ids.flags.writeable


def test_a_long_document_in_pieces_has_the_ids_of_the_whole(tmp_path: Path) -> None:
    text = "".join(f"{i}\u00a0of ½ {'  ' * (i % 3)}the é ﬁnal\n\n words " for i in range(12_000))
    (tmp_path / "train.txt").write_text(text)
    corpus = open_corpus(str(tmp_path))
    assert len(list(corpus.pieces("train"))) > 3
    tokens = prepared(tmp_path)
    whole = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    assert documents(tokens, "train") == [[0, *whole, 1]]


def test_the_tokenizer_learns_from_the_train_split_only(folder: Path) -> None:
    before = prepared(folder).tokenizer.to_str()
    (folder / "test" / "a.txt").write_text("zyzzyva " * 1000)
    assert prepared(folder).tokenizer.to_str() == before


def test_headings_are_dropped_or_kept(tmp_path: Path, articles_text: str) -> None:
    (tmp_path / "train.txt").write_text(articles_text)
    dropped, kept = prepared(tmp_path), prepared(tmp_path, headings="keep")
    assert dropped.digest != kept.digest
    decode = kept.tokenizer.decode
    texts = [decode(ids) for ids in documents(kept, "train")]
    assert "".join(texts) == articles_text
    assert len(documents(dropped, "train")) == 2
    assert dropped.splits["train"].byte_count < kept.splits["train"].byte_count


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- the cache ---------------------------------------------------------------------------------


def test_the_second_time_comes_from_the_cache(folder: Path, own_cache: Path) -> None:
    said: list[str] = []
    first = prepared(folder, report=said.append)
    assert said[0].startswith("training a tokenizer with 300 entries")
    counts = said[-2:]
    bytes_read = [len((LINES + "B: <|eot|>\n").encode()), len(LINES[:900].encode())]
    assert counts == [
        f"train: 2 files, 2 documents, {bytes_read[0]:,} bytes, {len(first.splits['train'].ids):,} "
        "tokens",
        f"test: 1 file, 1 document, {bytes_read[1]:,} bytes, {len(first.splits['test'].ids):,} "
        "tokens",
    ]
    said.clear()
    second = prepared(folder, report=said.append)
    assert said == counts
    assert second.folder == first.folder == own_cache / "tokens" / first.digest[:16]
    assert np.array_equal(first.splits["train"].ids, second.splits["train"].ids)


def test_another_corpus_or_tokenizer_never_meets_an_old_entry(folder: Path) -> None:
    digests = {prepared(folder).digest, prepared(folder, vocab_size=301).digest}
    (folder / "train" / "a.txt").write_text(LINES[:-2] + "!\n")
    changed = prepared(folder)
    assert changed.digest not in digests
    assert changed.tokenizer.decode(documents(changed, "train")[0]).endswith("!\n")


@pytest.mark.parametrize("name", ["train.bin", "train.offsets.bin", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_entry_is_made_again(folder: Path, name: str, damage: str) -> None:
    tokens = prepared(folder)
    expected = tokens.splits["train"].ids.tolist()
    path = tokens.folder / name
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    assert prepared(folder).splits["train"].ids.tolist() == expected
    assert names(tokens.folder.parent) == [tokens.folder.name]


def test_a_failure_leaves_nothing_in_the_cache(folder: Path, own_cache: Path) -> None:
    (folder / "test" / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        prepared(folder)
    assert names(own_cache / "tokens") == []


def test_what_killed_processes_left_goes_at_the_next_start(folder: Path, own_cache: Path) -> None:
    entries = own_cache / "tokens"
    entries.mkdir()
    script = (
        "import sys; from pathlib import Path; from lumenspark.files import temporary_folder\n"
        "with temporary_folder(Path(sys.argv[1]), '.preparing-') as made:\n"
        "    (made / 'train.bin').write_bytes(b'ids'); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(entries)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, running = (subprocess.Popen(command, **pipes) for _ in range(2))  # type: ignore[call-overload]
    for process in (killed, running):
        process.stdout.readline()
    killed.kill()
    killed.wait()
    tokens = prepared(folder)
    assert len(names(entries)) == 2  # the entry, and what the running process makes
    assert tokens.folder.name in names(entries)
    running.kill()
    running.wait()
    prepared(folder)  # from the cache, and still it tidies
    assert names(entries) == [tokens.folder.name]


@pytest.mark.parametrize("before", ["nothing", "a damaged entry"])
def test_processes_may_prepare_the_same_at_once(folder: Path, own_cache: Path, before: str) -> None:
    if before == "a damaged entry":
        one_bit(prepared(folder).folder / "train.bin")
    script = (
        "import sys; from lumenspark.data.corpora import open_corpus\n"
        "from lumenspark.data.tokens import prepare\n"
        "tokens = prepare(open_corpus(sys.argv[1]), vocab_size=300)\n"
        "print(tokens.digest, tokens.splits['train'].ids.sum())"
    )
    command = [sys.executable, "-c", script, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    tokens = prepared(folder)
    assert outputs == [f"{tokens.digest} {tokens.splits['train'].ids.sum()}\n"] * 4
    assert names(own_cache / "tokens") == [tokens.folder.name]


def test_neither_torch_nor_transformers_is_imported(folder: Path) -> None:
    script = (
        "import sys; from lumenspark.data.corpora import open_corpus\n"
        "from lumenspark.data.tokens import prepare; import lumenspark.data.windows\n"
        "prepare(open_corpus(sys.argv[1]), vocab_size=300)\n"
        "print({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("layout", ["plain", "wikitext"])
def test_memory_does_not_grow_with_a_document(tmp_path: Path, layout: str) -> None:
    """Reading 24 MB that are one line takes as much as reading 6 MB, and that is little."""
    peaks = []
    for times in (250, 1000):
        (tmp_path / "train.txt").write_text(LINES.replace("\n", "") * times)
        corpus = open_corpus(str(tmp_path), layout=layout)
        tracemalloc.start()
        for _ in clean_articles(corpus.pieces("train"), layout, "drop"):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 4_000_000
    assert peaks[1] < 1.1 * peaks[0]


# --- an existing tokenizer ---------------------------------------------------------------------


def test_an_existing_tokenizer_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    other = train_tokenizer([LINES], 280)
    to_transformers(other).save_pretrained(tmp_path / "other")
    tokens = prepared(folder, tokenizer_name=str(tmp_path / "other"))
    assert tokens.vocab_size == 280
    ids = other.encode(LINES, add_special_tokens=False).ids
    assert documents(tokens, "train")[0] == [0, *ids, 1]
    assert tokens.digest != prepared(folder, vocab_size=280).digest


def test_a_large_vocabulary_takes_four_bytes(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: 70_000 + i for i, word in enumerate(sorted({*LINES.split(), "?", "end"}))}
    bare = Tokenizer(models.WordLevel(words, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="end", eos_token="end")
    made.save_pretrained(tmp_path / "other")
    tokens = prepared(folder, tokenizer_name=str(tmp_path / "other"))
    assert tokens.splits["train"].ids.dtype == np.uint32
    assert tokens.vocab_size == max(words.values()) + 1
    for ids in documents(tokens, "train"):  # one token for both: it comes before each document
        assert ids[0] == words["end"]
        assert words["end"] not in ids[1:]


# --- what cannot be prepared -------------------------------------------------------------------


def test_an_absent_split_says_so_when_it_is_asked_for(folder: Path) -> None:
    tokens = prepared(folder)
    assert list(tokens.splits) == ["train", "test"]
    with pytest.raises(UserError, match=r"no validation split, only train, test: name a file"):
        tokens.splits["validation"]


def test_without_text_to_train_on_nothing_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text(LINES)
    with pytest.raises(UserError, match=r"no train split, only test"):
        prepared(tmp_path)
    (tmp_path / "train.txt").write_text(" \n = Title alone = \n \n")
    with pytest.raises(UserError, match=r"no text in the train split"):
        prepared(tmp_path)


def test_wrong_settings_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="vocabulary of 258 is too small: it needs 259 entries"):
        prepared(folder, vocab_size=258)
    with pytest.raises(UserError, match="headings cannot be 'some': choose drop or keep"):
        prepared(folder, headings="some")


def test_a_cache_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUMENSPARK_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cache folder .* cannot be written .* LUMENSPARK_CACHE"):
        prepared(folder)


@pytest.mark.parametrize("name", ["train/a.txt", "test/a.txt"])
def test_a_file_that_cannot_be_read_is_not_taken_for_the_cache(folder: Path, name: str) -> None:
    corpus = open_corpus(str(folder))
    corpus.digest()
    (folder / name).unlink()
    with pytest.raises(
        UserError, match=rf"^the file {folder / name} cannot be read \(No such file"
    ):
        prepare(corpus, vocab_size=300)


def test_text_without_names_of_splits_is_said_to_be_divided(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(200)))
    for _ in range(2):  # made, and from the cache
        said: list[str] = []
        assert prepared(tmp_path, report=said.append).divided
        assert f"{tmp_path} has no splits: 90% of its text is for training" in said
        assert said[-3].startswith("train: 1 file, ")


# --- what lies in the cache is what was written ------------------------------------------------


def shuffled(path: Path) -> None:
    ids = np.fromfile(path, "<u2")
    np.random.default_rng(0).permutation(ids).tofile(path)


def swapped_vocabulary(path: Path) -> None:
    text = path.read_text("utf-8")
    content = json.loads(text)
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), "utf-8")
    os.truncate(path, len(text.encode()))


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_count(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    content["splits"]["train"]["bytes"] += 1
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train.bin", shuffled),
        ("tokenizer.json", swapped_vocabulary),
        ("train.bin", one_bit),
        ("test.offsets.bin", one_bit),
        ("meta.json", other_count),
    ],
)
def test_an_entry_that_is_not_what_was_written_is_made_again_and_that_is_said(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    first = prepared(folder)
    whole = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    damage(first.folder / name)
    assert (first.folder / name).read_bytes() != whole[name]
    said: list[str] = []
    second = prepared(folder, report=said.append)
    assert said[0] == (f"rebuilding the token cache {first.folder}: {name} is damaged")
    assert {path.name: path.read_bytes() for path in second.folder.iterdir()} == whole
    assert names(first.folder.parent) == [first.folder.name]


def test_an_entry_of_another_format_is_made_again_under_the_digest_that_runs_know(
    folder: Path,
) -> None:
    first = prepared(folder)
    corpus = open_corpus(str(folder)).digest()
    since_the_first_version = json.dumps([1, corpus, "byte-level BPE, NFKC, 300", "drop"])
    assert first.digest == hashlib.sha256(since_the_first_version.encode()).hexdigest()
    meta = first.folder / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text("utf-8")) | {"format": 1}), "utf-8")
    said: list[str] = []
    assert prepared(folder, report=said.append).digest == first.digest
    assert said[0].endswith("written by another version of lumenspark")


def test_the_same_text_gives_the_same_files_anywhere(folder: Path, tmp_path: Path) -> None:
    one, two = (prepared(folder, cache=tmp_path / name) for name in ("one", "two"))
    assert one.digest == two.digest
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


def test_large_files_are_compared_by_blocks_and_whole_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.data.tokens.CHECKED_WHOLE", 256)  # blocks of 4 bytes
    first = prepared(folder)
    path = first.folder / "train.bin"
    size = path.stat().st_size
    begins = {number * (size - 4) // 63 for number in range(64)}
    seen = {begin + offset for begin in begins for offset in range(4)}
    unseen = next(place for place in range(size) if place not in seen)

    def change(place: int) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    said: list[str] = []
    change(unseen)
    prepared(folder, report=said.append)
    assert "rebuilding" not in said[0]
    prepared(folder, report=said.append, check_every_byte=True)
    assert any("train.bin is damaged" in line for line in said)
    for place in (0, size - 1, next(iter(begins))):
        said.clear()
        change(place)
        prepared(folder, report=said.append)
        assert "train.bin is damaged" in said[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files there")
@pytest.mark.parametrize("limit", [2_000, 30_000])
def test_a_full_disk_names_the_file_and_what_to_do(
    folder: Path, own_cache: Path, limit: int
) -> None:
    """A limit on the size of files, which a process meets as it meets a full disk."""
    script = (
        "import resource, signal, sys\n"
        "from lumenspark.data.corpora import open_corpus\n"
        "from lumenspark.data.tokens import prepare\n"
        "from lumenspark.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try: prepare(open_corpus(sys.argv[1]), vocab_size=300)\n"
        "except UserError as error: print(error)"
    )
    (folder / "train" / "c.txt").write_text(LINES * 4)
    command = [sys.executable, "-c", script, str(folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    file = "tokenizer.json" if limit == 2_000 else "train.bin"
    assert f"the cache folder {own_cache / 'tokens'} cannot be written" in done.stdout
    assert f"{file}'): free some space, or set LUMENSPARK_CACHE" in done.stdout
    assert names(own_cache / "tokens") == []


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_and_nothing_stays(
    folder: Path, own_cache: Path
) -> None:
    (folder / "train" / "c.txt").write_text(LINES * 200)  # a second or so of work
    script = (
        "import sys; from lumenspark.data.corpora import open_corpus\n"
        "from lumenspark.data.tokens import prepare\n"
        "print(flush=True); prepare(open_corpus(sys.argv[1]), vocab_size=400)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    dice = random.Random(0)
    for _ in range(15):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(dice.random())
            process.kill()
    tokens = prepared(folder, vocab_size=400)
    assert names(own_cache / "tokens") == [tokens.folder.name]
    decoded = tokens.tokenizer.decode(documents(tokens, "train")[2][1:-1])
    assert decoded == unicodedata.normalize("NFKC", LINES * 200)
