"""Generation against tokenizers, prompts and settings of all kinds.

A text is the same whether it is streamed or returned, and nothing is an error of another kind than
a sentence.
"""

import io
import random
from pathlib import Path

import pytest
import tokenizers_of_all_kinds as kinds
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lumenspark.cli import run
from lumenspark.errors import UserError
from lumenspark.generation.text import Sampling, continuations, stream
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.models.continuation import Continuation, continuation

PROMPTS = [
    "the cat",
    "The CAT ",
    " the cat",
    "the cat  sat\n",
    "do n",
    "it '",
    "didn't",
    "naïve café",
    "日本語",
    "ﬁ ½ ™ e\u0301",
    "🙂",
    "a\x00b",
    "\u200b\u2028x",
    "\N{REPLACEMENT CHARACTER}",
    "</s> the",
    "\ufeffthe",
    "x" * 300,
    "▁the ▁",
    "## n't , .",
    "\t\r\n the",
]


@pytest.fixture(scope="module", params=kinds.ALL)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return kinds.ALL[request.param]()


def after_the_prompt(tokenizer: PreTrainedTokenizerFast, ids: list[int], start: int) -> str:
    """Both decoded whole, the prompt's characters cut off, then cleaned up."""
    prompt, whole = (
        tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for row in (ids[:start], ids)
    )
    made = whole[len(prompt) :]
    cleans_up = tokenizer.clean_up_tokenization_spaces
    return tokenizer.clean_up_tokenization(made) if cleans_up else made


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_a_stream_is_the_whole_text(tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    """Whatever tokens come, halves of characters and special tokens among them, in any pieces."""
    noise = random.Random(prompt)
    start = tokenizer(prompt)["input_ids"]
    for length in (1, 2, 3, 8, 30, 300):
        ids = start + noise.choices(range(len(tokenizer)), k=length)
        whole = after_the_prompt(tokenizer, ids, len(start))
        assert continuation(tokenizer, ids, len(start)) == whole
        for longest in (1, 4):
            text, given, place = Continuation(tokenizer, start), "", len(start)
            while place < len(ids):
                size = noise.randint(1, longest)
                given += text.add(ids[place : place + size])
                place += size
                assert whole.startswith(given)
            assert given + text.end() == whole


def test_what_is_final_is_given_at_once() -> None:
    """Words one token behind at most, a character as soon as it is whole."""
    tokenizer = kinds.byte_level()
    start = tokenizer("The")["input_ids"]
    text = Continuation(tokenizer, start)
    pieces = [text.add([token]) for token in tokenizer(" cat — 日", add_special_tokens=False)["input_ids"]]
    assert "".join(pieces) == " cat — 日"
    assert "" in pieces  # within a character of three bytes
    assert text.end() == ""


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("prompt", ["the cat", "The CAT ", "do n", "日本語 🙂", "it's "])
def test_all_ways_to_generate_give_the_same_text(
    tokenizer: PreTrainedTokenizerFast, prompt: str
) -> None:
    """Streamed and whole, one and several, alone and among others, past the context of 16."""
    torch.manual_seed(0)
    config = LumiereConfig(
        vocab_size=len(tokenizer), max_position_embeddings=16, eos_token_id=None, **TINY
    )
    model = LumiereForCausalLM(config).eval()
    sampling = Sampling(max_new_tokens=24, temperature=1.0, top_k=0, seed=2**63 - 2)
    three = continuations(model, tokenizer, prompt, sampling, count=3)
    assert continuations(model, tokenizer, prompt, sampling) == three[:1]
    for copy, text in enumerate(three):
        file = io.StringIO()
        stream(model, tokenizer, prompt, sampling.again(copy), file)
        assert file.getvalue() == text + "\n"
        assert text.startswith(prompt)
    greedy = continuations(model, tokenizer, prompt, Sampling(24, temperature=0))
    texts = model.generate(text=[prompt, "the"], tokenizer=tokenizer, max_new_tokens=24)
    assert texts[:1] == greedy


NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e-300", "1e300", "-0.0", "1e-6", "0.5", "2"]
WHOLE = ["nan", "-1", "0", "1", "3.5", "9" * 5_000, str(2**63), str(2**63 - 1), "1e3", "10" + "0" * 11]


def fitting(option: str) -> list[str]:
    whole = option in ("--max-new-tokens", "--top-k", "-n", "--seed")
    return [value for value in (WHOLE if whole else NUMBERS)]


OPTIONS = ("--temperature", "--top-p", "--repetition-penalty", "--top-k", "--max-new-tokens", "-n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    tokenizer = kinds.byte_level()
    config = LumiereConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **TINY)
    LumiereForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
