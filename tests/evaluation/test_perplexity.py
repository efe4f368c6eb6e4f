"""The figures of both protocols against plain loops, with a model that is not ours."""

import json
import math
import tracemalloc
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from lumenspark.data.corpora import Corpus, clean_articles, open_corpus
from lumenspark.data.tokenizer import train_tokenizer
from lumenspark.data.tokens import prepare
from lumenspark.errors import UserError
from lumenspark.evaluation import scoring
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import describe, read_evaluations, store
from lumenspark.evaluation.scoring import card_loss


def nats_of(model: GPT2LMHeadModel, window: list[int]) -> list[float]:
    """-ln p of each id but the first, given those before it."""
    with torch.no_grad():
        logits = model.eval()(torch.tensor([window])).logits[0].double()
    log_p = torch.log_softmax(logits, -1)
    return [-float(log_p[t - 1, window[t]]) for t in range(1, len(window))]


def plain_strided(model: GPT2LMHeadModel, ids: list[int], context: int, stride: int) -> float:
    """Total nats. The first window is full; each later one scores the next ``stride`` ids."""
    total, scored, end = 0.0, 1, min(context, len(ids))
    while scored < len(ids):
        window = ids[max(end - context, 0) : end]
        total += sum(nats_of(model, window)[scored - end :])
        scored, end = end, min(end + stride, len(ids))
    return total


def plain_card(model: GPT2LMHeadModel, documents: list[list[int]], context: int) -> list[float]:
    losses = []
    for ids in documents:
        begin = 0
        while True:
            losses += nats_of(model, ids[begin : begin + context])
            if begin + context >= len(ids):
                break
            begin += context - 8
    return losses


@pytest.mark.parametrize(("context", "stride"), [(48, 24), (32, 5)])
def test_strided_equals_a_plain_loop(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    context: int,
    stride: int,
) -> None:
    text = corpus.text("test")
    ids = [0, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    total = plain_strided(model, ids, context, stride)

    found = evaluate(model, tokenizer, corpus, context=context, stride=stride)

    assert found.loss == pytest.approx(total / (len(ids) - 1), rel=1e-5)
    assert found.targets == len(ids) - 1
    assert found.bytes == len(text.encode()) > len(text)
    assert found.words == len(text.split())
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.word_perplexity == pytest.approx(math.exp(total / found.words), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / found.bytes, rel=1e-5)
    assert (found.context, found.stride, found.documents) == (context, stride, None)


def test_card_equals_a_plain_loop(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    texts = [piece.text for piece in clean_articles(corpus.pieces("test"), "wikitext", "drop")]
    assert len(texts) == 2
    assert "=" not in "".join(texts)
    framed = [[0, *tokenizer(text, add_special_tokens=False)["input_ids"], 1] for text in texts]
    losses = plain_card(model, framed, 32)

    found = evaluate(model, tokenizer, corpus, protocol="card", context=32)

    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.targets == len(losses)
    assert (found.documents, found.context, found.stride) == (2, 32, 24)
    assert found.bytes == sum(len(text.encode()) for text in texts)
    assert found.words == sum(len(text.split()) for text in texts)
    assert found.word_perplexity is None
    assert found.bits_per_byte is None

    ids = np.array([token for ids in framed for token in ids], dtype=np.uint16)
    tokens = SimpleNamespace(ids=ids, offsets=np.cumsum([0, *map(len, framed)]))
    assert card_loss(model, tokens, context=32) == (found.loss, found.targets)


def test_a_long_text_in_pieces_gives_the_figures_of_the_whole(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    spaced = "".join(f"{i}\u00a0of ½ {'  ' * (i % 3)}the\x1cé ﬁnal\n\n words " for i in range(2000))
    text = f"{spaced}{'x' * 70_000} {spaced}"  # cut inside the long word, too
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    corpus = open_corpus(str(tmp_path))
    assert sum(1 for _ in corpus.pieces("test")) == 3
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    framed = np.array([0, *ids, 1])
    tokens = SimpleNamespace(ids=framed, offsets=np.array([0, len(framed)]))
    card = evaluate(model, tokenizer, corpus, protocol="card", context=48)
    assert (card.loss, card.targets) == card_loss(model, tokens, context=48)
    compatible = len(unicodedata.normalize("NFKC", text).encode())
    assert compatible > len(text.encode())
    assert (card.bytes, card.words) == (compatible, len(text.split()))

    strided = evaluate(model, tokenizer, corpus, stride=47)
    assert strided.targets == len(ids)
    assert (strided.bytes, strided.words) == (compatible, len(text.split()))
    one_stream = SimpleNamespace(ids=framed[:-1], offsets=np.array([0, len(ids) + 1]))
    # The same windows, but for the beginning of the last one.
    whole, _ = card_loss(model, one_stream, context=48, overlap=1)
    assert strided.loss == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("protocol", ["strided", "card"])
def test_memory_does_not_grow_with_the_text(
    model: GPT2LMHeadModel, tmp_path: Path, protocol: str
) -> None:
    peaks = []
    for spaces in (1_000, 10_000):
        (tmp_path / "test.txt").write_text(f"one two{' ' * spaces}\n" * 400)
        tracemalloc.start()
        evaluate(model, word_tokenizer("one two"), open_corpus(str(tmp_path)), protocol=protocol)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 2_000_000  # of a text of 4 MB


@pytest.mark.parametrize("begin", ["<|sot|>", "<|eot|>", None])
def test_documents_are_read_as_for_training(
    model: GPT2LMHeadModel, tmp_path: Path, begin: str | None
) -> None:
    """The same frame, and a "<|eot|>" in the text is these characters."""
    (tmp_path / "text" / "train").mkdir(parents=True)
    (tmp_path / "text" / "test").mkdir()
    for name, text in (("train/a", "some text"), ("test/a", "a <|eot|> b\n"), ("test/b", "c d")):
        (tmp_path / "text" / f"{name}.txt").write_text(text)
    corpus = open_corpus(str(tmp_path / "text"))
    names = {"bos_token": begin} if begin else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer([corpus.text("train")], 300),
        eos_token="<|eot|>",
        **names,
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prepared = prepare(corpus, tokenizer_name=str(tmp_path / "tokenizer"), cache=tmp_path)

    card = evaluate(model, tokenizer, corpus, protocol="card")
    assert (card.loss, card.targets) == card_loss(model, prepared.splits["test"], context=48)
    assert evaluate(model, tokenizer, corpus).targets == len(
        tokenizer(
            corpus.text("test"), add_special_tokens=False, split_special_tokens=True
        ).input_ids
    )


def test_card_loss_takes_windows_from_all_over_the_split(model: GPT2LMHeadModel) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 4000).astype(np.uint16)
    tokens = SimpleNamespace(ids=ids, offsets=np.array([0, 1000, 4000]))
    _, everything = card_loss(model, tokens, context=16)
    _, part = card_loss(model, tokens, context=16, limit_windows=10)
    assert part == 10 * 15 < everything
    assert card_loss(model, tokens, context=16, limit_windows=10**6)[1] == everything


@pytest.mark.parametrize("protocol", ["strided", "card"])
def test_batch_size_does_not_change_the_figures(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = evaluate(model, tokenizer, corpus, protocol=protocol, context=32)
    monkeypatch.setattr(scoring, "LOGITS_PER_BATCH", 1)
    one_by_one = evaluate(model, tokenizer, corpus, protocol=protocol, context=32)
    assert one_by_one.loss == pytest.approx(together.loss, rel=1e-6)
    assert one_by_one.targets == together.targets


def test_a_bfloat16_model(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    exact = evaluate(model, tokenizer, corpus)
    half = GPT2LMHeadModel(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    found = evaluate(half, tokenizer, corpus)
    assert found.dtype == "bfloat16"
    assert found.loss == pytest.approx(exact.loss, rel=0.02)
    assert found.loss != exact.loss


def test_defaults_and_mode(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    seen = []
    model.train()
    found = evaluate(
        model, tokenizer, corpus, progress=lambda done, total: seen.append((done, total))
    )
    assert model.training
    assert (found.context, found.stride) == (48, 24)
    assert evaluate(model, tokenizer, corpus, protocol="card").context == 48
    assert seen[-1] == (found.targets, found.targets)
    assert found.data_digest == corpus.digest()


def word_tokenizer(text: str, **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(sorted({*text.split()}))}
    vocabulary |= {token: len(vocabulary) for token in special.values()}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=text.split()[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def test_without_begin_and_end_tokens_the_first_token_is_not_counted(
    model: GPT2LMHeadModel, tmp_path: Path
) -> None:
    text = "  Überall one two three one two\n"
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    corpus = open_corpus(str(tmp_path))
    tokenizer = word_tokenizer(text)
    found = evaluate(model, tokenizer, corpus)
    ids = tokenizer(text)["input_ids"]
    assert found.targets == 5 == len(ids) - 1
    assert found.words == 5
    assert found.bytes == len(" one two three one two")  # the line break is in no token
    assert found.loss * 5 == pytest.approx(plain_strided(model, ids, 48, 24), rel=1e-5)

    unframed = evaluate(model, tokenizer, corpus, protocol="card")
    assert unframed.targets == 5


def test_a_tokenizer_written_in_python(model: GPT2LMHeadModel, tmp_path: Path) -> None:
    """ByT5's ids are bytes, and it gives no offsets."""
    (tmp_path / "test.txt").write_text("tea and water", encoding="utf-8")
    corpus = open_corpus(str(tmp_path))
    tokenizer = ByT5Tokenizer(extra_ids=0)
    assert evaluate(model, tokenizer, corpus).targets == 13
    tokenizer.eos_token = None
    found = evaluate(model, tokenizer, corpus)
    assert (found.targets, found.bytes, found.words) == (12, 12, 2)


def test_without_a_begin_token_the_end_token_comes_first(
    model: GPT2LMHeadModel, tmp_path: Path
) -> None:
    text = "one two three one two"
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    tokenizer = word_tokenizer(text, eos_token="<end>")
    found = evaluate(model, tokenizer, open_corpus(str(tmp_path)))
    ids = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
    assert found.targets == found.words == 5
    assert found.bytes == len(text)
    assert found.loss * 5 == pytest.approx(plain_strided(model, ids, 48, 24), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 49}, "takes 48 tokens, not 49"),
        ({"context": 1}, "predicts nothing"),
        ({"context": 32, "stride": 33}, "stride of 33"),
        ({"stride": 0}, "stride of 0"),
        ({"protocol": "card", "stride": 4}, "fixed overlap of 8"),
        ({"protocol": "card", "context": 8}, "cannot overlap by 8"),
        ({"protocol": "other"}, "unknown protocol 'other'"),
    ],
)
def test_settings_that_cannot_work(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    settings: dict,
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(model, tokenizer, corpus, **settings)


def test_a_foreign_tokenizer(model: GPT2LMHeadModel, corpus: Corpus, tmp_path: Path) -> None:
    many = " ".join(f"w{number}" for number in range(400))
    (tmp_path / "test.txt").write_text(many)
    with pytest.raises(UserError, match="gives id 399, but the model's vocabulary has 300"):
        evaluate(model, word_tokenizer(many), open_corpus(str(tmp_path)))


def test_a_split_with_one_token(model: GPT2LMHeadModel, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("one")
    for protocol in ("strided", "card"):
        with pytest.raises(UserError, match="fewer than two tokens"):
            evaluate(model, word_tokenizer("one"), open_corpus(str(tmp_path)), protocol=protocol)
    with pytest.raises(UserError, match="fewer than two tokens"):
        card_loss(model, SimpleNamespace(ids=np.array([0]), offsets=np.array([0, 1])), context=16)


def test_damaged_weights(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    damaged = GPT2LMHeadModel(model.config)
    torch.nn.init.constant_(damaged.transformer.ln_f.weight, math.nan)
    with pytest.raises(UserError, match=r"loss on .* is nan"):
        evaluate(damaged, tokenizer, corpus)


def test_store_and_describe(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, tmp_path: Path
) -> None:
    found = evaluate(model, tokenizer, corpus)
    other = evaluate(model, tokenizer, corpus, stride=12)
    for evaluation, step in ((found, 10), (other, 10), (found, 20)):
        store(tmp_path, evaluation, checkpoint="best", step=step, command="lumenspark evaluate x")
    store(tmp_path, found, checkpoint="last", step=30, command="lumenspark evaluate x")

    entries = read_evaluations(tmp_path)
    assert [(e["checkpoint"], e["stride"], e["step"]) for e in entries] == [
        ("best", 12, 10),
        ("best", 24, 20),
        ("last", 24, 30),
    ]
    assert json.loads((tmp_path / "evaluation.json").read_text())["evaluations"] == entries
    assert entries[1]["bits_per_byte"] == found.bits_per_byte
    assert entries[1]["finished_at"].endswith("+00:00")

    lines = describe(found)
    assert f"{found.bits_per_byte:.4f}" in lines
    assert f"{found.loss:.4f} nats per token" in lines


def test_a_damaged_record_is_kept(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "evaluation.json").write_text('{"evaluations": [')
    found = evaluate(model, tokenizer, corpus)
    with pytest.raises(UserError, match=r"evaluation\.json cannot be read"):
        store(tmp_path, found, checkpoint="best", step=None, command="")
    assert (tmp_path / "evaluation.json").read_text() == '{"evaluations": ['
