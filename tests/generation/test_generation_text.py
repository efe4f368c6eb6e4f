"""Text in, text out: what is streamed, what is returned, and what a seed fixes, for two models."""

import io

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.errors import UserError
from lumenspark.generation.text import Sampling, continuations, stream
from lumenspark.models import LumiereConfig, LumiereForCausalLM

TEXT = """The lighthouse stands on the last rock of the coast, and its lamp is lit at dusk. Ships
that come from the north see the lamp first; ships that come from the south hear the bell.
"""
PROMPT = "The lamp is"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return to_transformers(train_tokenizer([TEXT], 300))


@pytest.fixture(scope="module", params=["lumiere", "gpt2"])
def model(request: pytest.FixtureRequest) -> LumiereForCausalLM | GPT2LMHeadModel:
    """Large weights, so that their predictions differ; neither makes an end token."""
    torch.manual_seed(0)
    if request.param == "gpt2":
        sizes = {"n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2}
        ends = {"bos_token_id": 0, "eos_token_id": None}
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=300, initializer_range=0.3, **sizes, **ends)
        ).eval()
    config = LumiereConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        max_position_embeddings=16,
        initializer_range=0.3,
        eos_token_id=None,
    )
    return LumiereForCausalLM(config).eval()


def streamed(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, sampling: Sampling) -> str:
    file = io.StringIO()
    stream(model, tokenizer, PROMPT, sampling, file)
    return file.getvalue()


def greedy_ids(model: torch.nn.Module, ids: list[int], new: int) -> list[int]:
    """Within the context of both models."""
    for _ in range(new):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


def test_temperature_0_takes_the_likeliest_token_each_time(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = tokenizer(PROMPT)["input_ids"]
    ids = greedy_ids(model, prompt, 16 - len(prompt))
    sampling = Sampling(max_new_tokens=16 - len(prompt), temperature=0)
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert expected.startswith(PROMPT)
    assert continuations(model, tokenizer, PROMPT, sampling) == [expected]
    assert continuations(model, tokenizer, PROMPT, sampling, count=3) == [expected] * 3
    assert streamed(model, tokenizer, sampling) == expected + "\n"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_streamed_is_what_is_returned(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    sampling = Sampling(max_new_tokens=60, temperature=1.0, top_k=0, seed=seed)
    [text] = continuations(model, tokenizer, PROMPT, sampling)
    assert text.startswith(PROMPT)
    assert streamed(model, tokenizer, sampling) == text + "\n"


def test_a_seed_fixes_the_text(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    def texts(seed: int | None) -> list[str]:
        sampling = Sampling(30, temperature=1.5, seed=seed)
        return continuations(model, tokenizer, PROMPT, sampling, count=3)

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert texts(None) != texts(None)
    assert len(set(texts(1))) == 3


def test_a_further_text_of_the_same_prompt_has_a_seed_of_its_own(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampling = Sampling(max_new_tokens=30, seed=5)
    copies = [streamed(model, tokenizer, sampling.again(copy)) for copy in range(3)]
    assert len(set(copies)) == 3
    assert copies[0] == streamed(model, tokenizer, sampling)
    assert copies[2] == streamed(model, tokenizer, Sampling(max_new_tokens=30, seed=7))
    assert Sampling().again(2) == Sampling()


def test_the_sampling_settings_reach_the_model(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    def text(**settings: float) -> str:
        return continuations(model, tokenizer, PROMPT, Sampling(12, seed=1, **settings))[0]

    greedy = text(temperature=0)
    assert text(top_k=1) == greedy
    assert text(top_p=1e-6) == greedy
    assert text(temperature=1e-4) == greedy
    assert text(temperature=100.0, top_k=0) != greedy
    short, long = (
        tokenizer(continuations(model, tokenizer, PROMPT, Sampling(n, 0))[0]) for n in (2, 12)
    )
    assert len(short["input_ids"]) < len(long["input_ids"])


def test_a_repetition_penalty_makes_what_was_there_less_likely(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    """With a penalty beyond all logits no token comes twice, whatever the sign of its logit."""
    sampling = Sampling(max_new_tokens=40, temperature=0, repetition_penalty=1e6)
    prompt = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**prompt, pad_token_id=2, **sampling.arguments())[0].tolist()
    made = ids[prompt["input_ids"].shape[1] :]
    assert len(set(made)) == len(made)


def test_lumiere_goes_on_past_its_context(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    config = LumiereConfig(
        vocab_size=300, hidden_size=32, max_position_embeddings=16, eos_token_id=None
    )
    model = LumiereForCausalLM(config).eval()
    sampling = Sampling(max_new_tokens=100, temperature=1.0, top_k=0, seed=0)
    [text] = continuations(model, tokenizer, TEXT, sampling)
    assert text.startswith(TEXT)
    assert len(text) > len(TEXT) + 100


def test_the_prompt_is_given_back_as_it_was(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Also where the tokenizer's NFKC writes it otherwise."""
    for prompt in ("The ﬁsh’s  ½ \n lamp ", " leading space", "日本語 ☃"):
        [text] = continuations(model, tokenizer, prompt, Sampling(max_new_tokens=5, seed=0))
        assert text.startswith(prompt)


def test_a_prompt_without_tokens_is_an_error(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    bare = to_transformers(train_tokenizer([TEXT], 300))
    bare.backend_tokenizer.post_processor = None  # no beginning token from now on
    with pytest.raises(UserError, match="the prompt has no tokens: give at least one word"):
        continuations(model, bare, "", Sampling())
    with pytest.raises(UserError, match="the prompt has no tokens"):
        stream(model, bare, "", Sampling(), io.StringIO())
    assert continuations(model, tokenizer, "", Sampling(5, seed=0))[0] != ""


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it must be 1 or more"),
        ({"temperature": -0.1}, "temperature is -0.1: it must be 0 or more"),
        ({"top_k": -1}, "top_k is -1: it must be 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0: it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5: it must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: it must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_an_error(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        Sampling(**settings)
    assert str(raised.value) == sentence


def test_a_model_that_ends_at_its_context_says_so(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=300, eos_token_id=None, **sizes)).eval()
    continuations(gpt2, tokenizer, "The", Sampling(max_new_tokens=5, seed=0))
    with pytest.raises(UserError, match="longer than the 16 positions of this model: give a sho"):
        continuations(gpt2, tokenizer, "The", Sampling(max_new_tokens=50, seed=0))
