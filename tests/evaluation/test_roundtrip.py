"""Bytes are those of the decoded text, for tokenizers of every kind."""

import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, GPT2LMHeadModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

from lumenspark.data.corpora import open_corpus
from lumenspark.data.documents import cut
from lumenspark.errors import UserError
from lumenspark.evaluation.perplexity import AS_PLAIN_TEXT, evaluate
from lumenspark.evaluation.results import describe
from lumenspark.evaluation.roundtrip import RoundTrip

PLAIN = (
    """The kettle's lid isn't shut .  It boils, and -- at 100 degrees -- it whistles!
A teapot (of 1,5 litres) holds \t"enough" for ten; the cups are @-@ small ones .

"""
    * 20
)
RICH = PLAIN + "Ein Kännchen für 3 € – ½ Liter Tee … 茶を飲む\n" * 20


def fast(
    model: Any,
    trainer: Any,
    pre: Any = None,
    decoder: Any = None,
    normalizer: Any = None,
    **special: str,
) -> FastTokenizer:
    tokenizer = Tokenizer(model)
    for name, part in (("normalizer", normalizer), ("pre_tokenizer", pre), ("decoder", decoder)):
        if part is not None:
            setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([RICH], trainer)
    return FastTokenizer(tokenizer_object=tokenizer, **special)


def byte_level(normalizer: Any = None, prefix_space: bool = False) -> FastTokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    pre = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return fast(models.BPE(), trainer, pre, decoders.ByteLevel(), normalizer, bos_token="<s>")


def word_pieces(lowercase: bool) -> FastTokenizer:
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]"], show_progress=False
    )
    return fast(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
        normalizers.BertNormalizer(lowercase=lowercase),
        unk_token="[UNK]",
    )


def unigram(scheme: str, normalizer: Any = None) -> FastTokenizer:
    """As sentencepiece and T5 do it."""
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    return fast(
        models.Unigram(),
        trainer,
        pre_tokenizers.Metaspace(prepend_scheme=scheme),
        decoders.Metaspace(prepend_scheme=scheme),
        normalizer,
        unk_token="<unk>",
    )


def llama() -> FastTokenizer:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", *byte_tokens], show_progress=False
    )
    return fast(
        models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"),
        trainer,
        None,
        decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        unk_token="<unk>",
    )


def words(unknown: str | None = "[UNK]", vocabulary: str = PLAIN) -> FastTokenizer:
    ids = {word: number for number, word in enumerate(["[UNK]", *sorted({*vocabulary.split()})])}
    inner = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return FastTokenizer(tokenizer_object=inner, **({"unk_token": unknown} if unknown else {}))


def round_trip(tokenizer: Any, text: str, piece: int = 1000) -> RoundTrip:
    found = RoundTrip(tokenizer)
    for part in cut([text], piece):
        found.add(part, list(tokenizer(part.text, **AS_PLAIN_TEXT)["input_ids"]))
    return found


def size(text: str) -> int:
    return len(text.encode())


WHOLE: dict[str, tuple[Callable[[], Any], str, int, int]] = {
    "GPT-2": (byte_level, RICH, size(RICH), 0),
    "GPT-2, space first": (lambda: byte_level(prefix_space=True), RICH, size(RICH), 0),
    "Llama": (llama, RICH, size(RICH), 0),
    "bytes": (lambda: ByT5Tokenizer(), RICH, size(RICH), 0),
    "NFKC": (
        lambda: byte_level(normalizers.NFKC()),
        RICH,
        size(unicodedata.normalize("NFKC", RICH)),
        0,
    ),
    "unigram": (lambda: unigram("always"), PLAIN, size(PLAIN), 20),
    "unigram, first": (lambda: unigram("first"), PLAIN, size(PLAIN), 20),
    "unigram, never": (lambda: unigram("never"), PLAIN, size(PLAIN), 20),
    "BERT, cased": (lambda: word_pieces(False), PLAIN, size(PLAIN), 120),
    "BERT, lower case": (lambda: word_pieces(True), PLAIN, size(PLAIN), 120),
    "words": (words, PLAIN, size(" ".join(PLAIN.split())), 4),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_decoded_bytes_count(kind: str) -> None:
    """Spaces that a decoder adds do not, and those that a tokenizer drops are few."""
    make, text, expected, fewer = WHOLE[kind]
    found = round_trip(make(), text)
    assert found.is_lossless
    assert expected - fewer <= found.bytes <= expected
    assert found.raw.words * 0.85 <= found.words <= found.raw.words == len(text.split())
    found.check()


def test_letters_made_small_are_said() -> None:
    for tokenizer in (word_pieces(True), byte_level(normalizers.Lowercase())):
        assert "lowercases the text" in " ".join(round_trip(tokenizer, PLAIN).notes())
    assert round_trip(word_pieces(False), PLAIN).notes() == []
    assert round_trip(byte_level(), PLAIN).notes() == []


LOSING: dict[str, tuple[Callable[[], Any], str, str]] = {
    "unknown words": (words, PLAIN + "samovar ", "1 of 641 tokens are unknown"),
    "unknown, not declared": (lambda: words(None), PLAIN + "samovar ", "1 of 641 tokens"),
    "unknown pieces": (lambda: word_pieces(True), PLAIN + "☕ ", "tokens are unknown"),
    "unknown in unigram": (lambda: unigram("always"), PLAIN + "☕ ", "tokens are unknown"),
    "dropped marks": (
        lambda: fast(
            models.BPE(),
            trainers.BpeTrainer(vocab_size=200, show_progress=False),
            pre_tokenizers.Split("@", "removed"),
            decoders.Fuse(),
        ),
        PLAIN,
        "does not restore the text",
    ),
    "letters without a token": (
        lambda: fast(
            models.BPE(),
            trainers.BpeTrainer(vocab_size=100, limit_alphabet=30, show_progress=False),
            pre_tokenizers.WhitespaceSplit(),
            decoders.Fuse(),
        ),
        PLAIN,
        "does not restore the text",
    ),
}


@pytest.mark.parametrize("kind", LOSING)
def test_where_text_is_lost_there_are_no_bytes(kind: str) -> None:
    make, text, reason = LOSING[kind]
    found = round_trip(make(), text)
    assert (found.bytes, found.words) == (None, None)
    assert reason in " ".join(found.notes())


@pytest.mark.parametrize("declared", ["[UNK]", None])
@pytest.mark.parametrize("protocol", ["strided", "card", "lm_eval"])
def test_a_text_of_unknown_words_gets_no_figure(
    model: GPT2LMHeadModel, tmp_path: Path, declared: str | None, protocol: str
) -> None:
    (tmp_path / "test.txt").write_text("samovar urn " * 100)
    tokenizer = words(declared)
    tokenizer.bos_token = "the"
    with pytest.raises(UserError, match="200 of 200 tokens are unknown to the tokenizer"):
        evaluate(model, tokenizer, open_corpus(str(tmp_path)), protocol=protocol)


@pytest.mark.parametrize("protocol", ["strided", "lm_eval"])
def test_a_few_unknown_words_leave_the_loss(
    model: GPT2LMHeadModel, tmp_path: Path, protocol: str
) -> None:
    (tmp_path / "test.txt").write_text(PLAIN + "samovar ")
    tokenizer = words()
    tokenizer.bos_token = "the"
    found = evaluate(model, tokenizer, open_corpus(str(tmp_path)), protocol=protocol)
    assert math.isfinite(found.loss)
    assert (found.bits_per_byte, found.word_perplexity) == (None, None)
    assert "1 of 641 tokens are unknown" in describe(found)
    assert "bits per byte  " not in describe(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ﬁne ﬂour … ①② " * 30, "fine flour ... 12 " * 30),
        ("ｆｕｌｌ ｗｉｄｔｈ " * 30, "full width " * 30),
        ("½ ㎏ ㍿ " * 30, "1⁄2 kg 株式会社 " * 30),
    ],
)
def test_the_same_ids_have_the_same_figure(
    model: GPT2LMHeadModel, tmp_path: Path, one: str, other: str
) -> None:
    """Whatever the text was before NFKC."""
    tokenizer = byte_level(normalizers.NFKC())
    figures = []
    for name, text in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.txt").write_text(text, encoding="utf-8")
        figures.append(evaluate(model, tokenizer, open_corpus(str(tmp_path / name))))
    assert figures[0].bits_per_byte == figures[1].bits_per_byte
    assert figures[0].word_perplexity == figures[1].word_perplexity
    assert figures[0].raw_bytes == size(one)
    assert f"raw: {size(one):,} bytes" in describe(figures[0])


def test_what_a_normalizer_throws_away_does_not_count(
    model: GPT2LMHeadModel, tmp_path: Path
) -> None:
    tokenizer = byte_level(normalizers.Replace(Regex("[0-9]+ "), ""))
    (tmp_path / "test.txt").write_text("tea 123456789 " * 100)
    found = evaluate(model, tokenizer, open_corpus(str(tmp_path)))
    assert (found.bytes, found.words, found.raw_bytes) == (400, 100, 1400)
