"""The tokenizer: what it promises about text, and how it is kept."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from lumenspark.data import tokenizer as module
from lumenspark.data.tokenizer import (
    document_frame,
    load_tokenizer,
    to_transformers,
    train_tokenizer,
    training_sample,
)
from lumenspark.errors import UserError

PROSE = (module.__doc__ or "") + (train_tokenizer.__doc__ or "") + (to_transformers.__doc__ or "")


@pytest.fixture(scope="session")
def learned() -> Tokenizer:
    return train_tokenizer([PROSE], 320)


@pytest.fixture(scope="session")
def saved(learned: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    to_transformers(learned, context=64).save_pretrained(folder)
    return folder


def test_special_tokens_are_the_first_and_the_size_is_as_asked(learned: Tokenizer) -> None:
    assert [learned.id_to_token(i) for i in range(3)] == ["<|sot|>", "<|eot|>", "<|pad|>"]
    assert learned.get_vocab_size() == 320


def test_a_poor_text_gives_fewer_entries_and_every_byte() -> None:
    poor = train_tokenizer(["a b"], 4096)
    assert 259 <= poor.get_vocab_size() < 4096
    assert poor.decode(poor.encode("Ω\x00🙂").ids) == "Ω\x00🙂"


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    assert train_tokenizer([PROSE], 259).get_vocab_size() == 259
    with pytest.raises(UserError, match="vocabulary of 258 entries is too small"):
        train_tokenizer([PROSE], 258)


@given(st.text())
def test_decoding_gives_back_the_nfkc_text(learned: Tokenizer, text: str) -> None:
    ids = learned.encode(text, add_special_tokens=False).ids
    assert learned.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFKC", text)


def test_transformers_puts_the_beginning_first_unless_told_not_to(saved: Path) -> None:
    tokenizer = load_tokenizer(str(saved))
    with_it, without = tokenizer("Some text"), tokenizer("Some text", add_special_tokens=False)
    assert with_it.input_ids == [0, *without.input_ids]
    assert tokenizer.decode(without.input_ids) == "Some text"
    assert tokenizer.decode(with_it.input_ids, skip_special_tokens=True) == "Some text"


def test_batches_are_padded_to_the_left(saved: Path) -> None:
    batch = load_tokenizer(str(saved))(["Some", "Some more text"], padding=True)
    assert batch.input_ids[0][0] == 2
    assert batch.attention_mask[0][0] == 0


def test_it_loads_where_this_package_is_unknown(saved: Path) -> None:
    script = f"""
import sys
sys.modules["lumenspark"] = None
from transformers import AutoTokenizer
t = AutoTokenizer.from_pretrained({str(saved)!r})
print([t.bos_token_id, t.eos_token_id, t.pad_token_id, t.model_max_length, len(t)])
print(t.decode(t(" a , b ' s .").input_ids[1:]) == " a , b ' s .")
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[0, 1, 2, 64, 320]", "True"]


# --- an existing tokenizer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "end", "frame"),
    [
        ("<s>", "</s>", ([0], [1])),
        ("</s>", "</s>", ([1], [])),  # GPT-2 has one token for both
        (None, "</s>", ([1], [])),
        ("<s>", None, ([0], [])),
        (None, None, ([], [])),
    ],
)
def test_documents_are_framed_by_what_the_tokenizer_has(
    begin: str | None, end: str | None, frame: tuple[list[int], list[int]]
) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "?": 2}, unk_token="?"))
    names = {"bos_token": begin, "eos_token": end}
    given = {name: token for name, token in names.items() if token}
    assert document_frame(PreTrainedTokenizerFast(tokenizer_object=bare, **given)) == frame


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="there is no tokenizer in "):
        load_tokenizer(str(tmp_path))


def test_without_network_the_offline_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # the hub at an address where nothing listens
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"hub cannot be reached .* a model .*hf download"):
        load_tokenizer("org/no-such-tokenizer")
    with pytest.raises(UserError, match="'no such name' is no file or folder, nor a hub id"):
        load_tokenizer("no such name")


# --- what it learns from -----------------------------------------------------------------------

TEXTS = [f"word{i} and the same words as ever {i % 7}" for i in range(4000)]
BYTES = sum(map(len, TEXTS))


def test_a_small_corpus_is_learned_from_whole() -> None:
    assert list(training_sample(lambda: TEXTS, BYTES)) == TEXTS


def test_a_large_corpus_is_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", BYTES // 10)
    sample = list(training_sample(lambda: TEXTS, BYTES))
    places = [TEXTS.index(text) for text in sample]
    assert places == sorted(places)
    assert len(sample) == pytest.approx(400, rel=0.2)
    assert sum(places) / len(places) == pytest.approx(2000, rel=0.1)
    assert list(training_sample(lambda: TEXTS, BYTES)) == sample


def test_distinct_words_are_bounded_and_the_sample_stays_even(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DISTINCT_BYTES", 3000)
    sample = list(training_sample(lambda: TEXTS, BYTES))
    assert 2000 < len("".join(set(" ".join(sample).split()))) <= 3000
    places = [TEXTS.index(text) for text in sample]
    assert sum(places) / len(places) == pytest.approx(2000, rel=0.1)


def test_words_that_only_come_late_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISTINCT_BYTES", 3000)
    texts = ["nothing new here"] * 4000 + TEXTS
    sample = list(training_sample(lambda: texts, 2 * BYTES))
    assert len("".join(set(" ".join(sample).split()))) <= 3000


def test_a_corpus_of_unknown_size_is_learned_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", BYTES // 10)
    sample = list(training_sample(lambda: TEXTS, None))
    assert sample == TEXTS[: len(sample)]
    assert sum(map(len, sample)) == pytest.approx(BYTES // 10, rel=0.01)
    monkeypatch.setattr(module, "DISTINCT_BYTES", 1000)
    fewer = list(training_sample(lambda: TEXTS, None))
    assert 0 < len(fewer) < len(sample)
