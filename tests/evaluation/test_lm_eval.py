"""The protocol lm_eval against lm_eval itself, to the last digit, on text of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

from lumenspark.data.corpora import open_corpus
from lumenspark.errors import UserError
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import describe
from lumenspark.models import LumiereConfig, LumiereForCausalLM

pytest.importorskip("lm_eval")

DOCUMENTS = [
    "A kettle is a pot with a lid and a spout , made to boil water .\n\n" * 5,
    " Tea – which is ½ water – is poured\tout of it .",  # NFKC changes it
    "<|sot|> begins here, and <|eot|> ends",
    "t",
    "The oldest known kettles are of bronze ; later ones are of iron , copper and steel . " * 40,
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    lines = (json.dumps({"text": text}) for text in DOCUMENTS)
    (tmp_path / "text" / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "text"


def by_lm_eval(model: Any, tokenizer: Any) -> dict[str, float]:
    """The model and the aggregations of lm_eval, as its tasks for perplexity put them together."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.api.task import PerplexityTask
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in DOCUMENTS]
    sums = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    words = list(map(PerplexityTask.count_words, DOCUMENTS))
    sizes = list(map(PerplexityTask.count_bytes, DOCUMENTS))
    return {
        "word_perplexity": weighted_perplexity(list(zip(sums, words, strict=True))),
        "byte_perplexity": weighted_perplexity(list(zip(sums, sizes, strict=True))),
        "bits_per_byte": bits_per_byte(list(zip(sums, sizes, strict=True))),
    }


def lumiere(tokenizer: FastTokenizer) -> LumiereForCausalLM:
    torch.manual_seed(0)
    return LumiereForCausalLM(LumiereConfig(vocab_size=len(tokenizer))).eval()


@pytest.mark.parametrize("family", ["gpt2", "lumiere"])
def test_the_figures_of_lm_eval(
    family: str, model: GPT2LMHeadModel, tokenizer: FastTokenizer, folder: Path, tmp_path: Path
) -> None:
    (model if family == "gpt2" else lumiere(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    expected = by_lm_eval(model, theirs)

    found = evaluate(model, theirs, open_corpus(str(folder)), protocol="lm_eval")

    assert found.word_perplexity == pytest.approx(expected["word_perplexity"], rel=1e-14)
    assert 2**found.bits_per_byte == pytest.approx(expected["byte_perplexity"], rel=1e-14)
    assert found.bits_per_byte == pytest.approx(expected["bits_per_byte"], rel=1e-14)
    assert found.documents == len(DOCUMENTS)
    assert found.context == found.stride == (48 if family == "gpt2" else 64)
    assert "twice in 5 of 5 documents" in describe(found)
    assert "bytes of the raw text; the token ids decode to" in describe(found)


def test_a_stride_of_the_context_gives_its_windows(
    model: GPT2LMHeadModel, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    """The text as one stream, and one token of its beginning instead of two."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    text = DOCUMENTS[-1]
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    nats = 0.0
    for pair in get_rolling_token_windows(ids, 0, 48, 1):
        before, targets = make_disjoint_window(pair)
        with torch.no_grad():
            logits = model.eval()(torch.tensor([before + targets[:-1]])).logits[0].double()
        log_p = torch.log_softmax(logits, -1)[-len(targets) :]
        nats -= float(log_p.gather(-1, torch.tensor(targets)[:, None]).sum())

    found = evaluate(model, tokenizer, open_corpus(str(tmp_path)), context=48, stride=48)

    assert found.targets == len(ids)
    assert found.loss * found.targets == pytest.approx(nats, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stride": 4}, "a fixed stride"), ({"context": 49}, "takes 48 tokens, not 49")],
)
def test_settings_that_cannot_work(
    model: GPT2LMHeadModel, tokenizer: FastTokenizer, folder: Path, settings: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(model, tokenizer, open_corpus(str(folder)), protocol="lm_eval", **settings)


def test_a_tokenizer_without_a_token_to_begin_with(
    model: GPT2LMHeadModel, tokenizer: FastTokenizer, folder: Path
) -> None:
    bare = FastTokenizer(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="neither BOS nor EOS token"):
        evaluate(model, bare, open_corpus(str(folder)), protocol="lm_eval")
