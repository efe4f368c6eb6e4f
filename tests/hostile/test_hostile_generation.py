"""Generation against tokenizers, prompts and settings of all kinds.

A text is the same whether it is streamed or returned, and nothing is an error of another kind than
a sentence.
"""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers_of_all_kinds as kinds
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from lumenspark.cli import run
from lumenspark.errors import UserError
from lumenspark.evaluation.model_checks import check_causal_briefly
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
    pieces = [
        text.add([token]) for token in tokenizer(" cat — 日", add_special_tokens=False)["input_ids"]
    ]
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    tokenizer = kinds.byte_level()
    config = LumiereConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **TINY)
    LumiereForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def answer(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code and outputs of ``lumenspark generate``, whatever it was told."""

    def run_and_read(*arguments: str) -> tuple[int, str, str]:
        try:
            code = run(["generate", str(folder), *arguments])
        except SystemExit as stopped:  # what cannot be parsed ends there
            code = int(stopped.code or 0)
        return code, *capfd.readouterr()

    return run_and_read


FRACTIONS = ("nan", "inf", "-inf", "-1", "-1e-300", "1e-300", "1e300", "x", "")
WHOLE = ("nan", "-1", "0x10", "3.5", "1e3", "9" * 5_000, str(10**12), str(2**63), "", "٣x")
SETTINGS = {
    "--temperature": FRACTIONS,
    "--top-p": (*FRACTIONS, "0", "1.0001"),
    "--repetition-penalty": (*FRACTIONS, "0"),
    "--top-k": tuple(value for value in WHOLE if value not in (str(10**12), str(2**63))),
    "--max-new-tokens": (*WHOLE, "0"),
    "-n": (*WHOLE, "0"),
    "--seed": tuple(value for value in WHOLE if value != str(10**12)),
}
WRONG = [(option, value) for option, values in SETTINGS.items() for value in values]
# So near to 1e-300 that a share of the probability is just the likeliest token.
WRONG = [pair for pair in WRONG if pair != ("--top-p", "1e-300")]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda part: ascii(part)[:20])
def test_a_setting_that_cannot_be_is_refused(
    answer: Callable[..., tuple[int, str, str]], option: str, value: str
) -> None:
    code, out, err = answer("the", f"{option}={value}")
    assert code == 2
    assert "fault of lumenspark" not in err
    assert "Traceback" not in out + err


EXTREME = [
    ("--temperature", "0"),
    ("--temperature", "-0.0"),
    ("--temperature", "1e-5"),
    ("--temperature", "1e5"),
    ("--top-p", "1e-300"),
    ("--top-k", str(10**30)),
    ("--repetition-penalty", "1e-9"),
    ("--repetition-penalty", "1e9"),
    ("--seed", str(2**63 - 1)),
    ("-n", "2"),
]


@pytest.mark.parametrize(("option", "value"), EXTREME, ids=str)
def test_a_setting_at_its_limit_works(
    answer: Callable[..., tuple[int, str, str]], option: str, value: str
) -> None:
    common = ("the cat", "--max-new-tokens=20", "--seed=9223372036854775807")
    code, out, err = answer(*common, f"{option}={value}", "--json")
    assert (code, err) == (0, "")
    texts = [json.loads(line)["text"] for line in out.splitlines()]
    assert texts
    assert all(text.startswith("the cat") for text in texts)
    code, streamed, _ = answer(*common, f"{option}={value}")
    assert streamed == "\n---\n".join(text + "\n" for text in texts)


NOT_TEXT = {
    "latin-1": b"caf\xe9",
    "cut": "caf\u00e9".encode()[:-1],
    "utf-16": "the cat".encode("utf-16"),
    "surrogate in UTF-8": b"a\xed\xa0\x80",
    "overlong": b"a\xc0\xaf",
    "second line": b"the\n\xff\xfe\n",
}


@pytest.mark.parametrize("content", NOT_TEXT.values(), ids=NOT_TEXT)
def test_bytes_that_are_no_text_are_refused(
    answer: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    """As Python hands them over on the command line, and from standard input."""
    typed = content.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    code, _, err = answer(typed)
    assert code == 2
    assert re.search(r"the prompt is not UTF-8: byte \d+ is 0x..", err)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, _, err = answer()
    assert code == 2
    assert re.search(r"line [12] of standard input is not UTF-8: byte \d+ is 0x..", err)


LINES = {
    "Windows": b"\xef\xbb\xbfthe\r\n\r\ncat\r\n",
    "Unix": b"the\ncat\n",
    "empty lines": b"\n\n  \nthe\n\n\ncat",
}


@pytest.mark.parametrize("content", LINES.values(), ids=LINES)
def test_lines_of_all_kinds_are_prompts(
    answer: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    """And each prompt's text is the one that it has alone."""
    options = ("--seed=1", "--max-new-tokens=5", "--json")
    alone = [json.loads(answer(prompt, *options)[1]) for prompt in ("the", "cat")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, out, _ = answer(*options)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == alone


@pytest.mark.parametrize("stdin", [None, io.StringIO(""), io.StringIO(" \n\r\n")])
def test_no_prompt_at_all(
    answer: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    stdin: io.StringIO | None,
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    code, _, err = answer()
    assert code == 2
    assert "prompt" in err


@pytest.mark.parametrize("prompt", ["\ud800", "a\udfff", 5, b"the", None, ["the"]])
def test_a_prompt_that_is_no_text_is_refused_in_python(prompt: object) -> None:
    tokenizer = kinds.byte_level()
    model = LumiereForCausalLM(LumiereConfig(vocab_size=len(tokenizer), **TINY))
    with pytest.raises(UserError, match=r"a prompt is a|is half a character"):
        continuations(model, tokenizer, prompt, Sampling())
    with pytest.raises(UserError, match=r"a prompt is a|is half a character"):
        stream(model, tokenizer, prompt, Sampling(), io.StringIO())
    if prompt is not None and not isinstance(prompt, list):
        with pytest.raises(ValueError, match=r"a prompt is a|is half a character"):
            model.generate(text=prompt, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"a prompt is a|is half a character"):
        model.generate(text=["the", prompt], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "max_new_tokens": (None, "3", 2.0, True, 10**12, 10**5_000, float("nan")),
        "temperature": (None, "hot", True, float("inf"), float("nan"), 10**400),
        "top_k": (None, 1.5, "all", float("nan")),
        "top_p": (None, "x", float("nan"), 2),
        "repetition_penalty": (None, float("nan"), float("inf"), [1.0], 1e-300),
        "seed": (1.5, "x", 2**63, -1, 10**5_000),
    }.items(),
)
def test_settings_that_cannot_be_are_refused_in_python(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(UserError, match=f"^{name} is .{{1,80}}: it must be ") as raised:
            Sampling(**{name: value})
        assert len(str(raised.value)) < 200


SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
ONE = SMALL | {"num_hidden_layers": 1, "max_position_embeddings": 16, "eos_token_id": None}
GPT2 = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
FOREIGN: dict[str, Callable[[int], PreTrainedModel]] = {
    "gpt2": lambda size: GPT2LMHeadModel(GPT2Config(vocab_size=size, **GPT2, eos_token_id=None)),
    "gpt2, several ends": lambda size: GPT2LMHeadModel(
        GPT2Config(vocab_size=size, **GPT2, eos_token_id=[2, 5, 7])
    ),
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, **ONE)),
    "opt": lambda size: OPTForCausalLM(
        OPTConfig(vocab_size=size, **ONE, ffn_dim=16, word_embed_proj_dim=16)
    ),
    "bloom": lambda size: BloomForCausalLM(
        BloomConfig(vocab_size=size, hidden_size=16, n_layer=1, n_head=2, eos_token_id=None)
    ),
    "rwkv": lambda size: RwkvForCausalLM(
        RwkvConfig(vocab_size=size, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    ),
    "mamba": lambda size: MambaForCausalLM(
        MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, eos_token_id=None)
    ),
    "roberta": lambda size: RobertaForCausalLM(
        RobertaConfig(vocab_size=size, **ONE, is_decoder=True)
    ),
}
WITH_AN_END = ("gpt2", "opt", "roberta")  # of their positions


@pytest.mark.parametrize("kind", ["byte level", "words", "wordpiece, cleaned up"])
@pytest.mark.parametrize("name", FOREIGN)
def test_models_of_others_write_or_say_why_not(name: str, kind: str) -> None:
    """Within their positions and past them, with tokenizers that lack special tokens too."""
    torch.manual_seed(0)
    tokenizer = kinds.ALL[kind]()
    model = FOREIGN[name](len(tokenizer)).eval()
    check_causal_briefly(model)
    for new, temperature in ((4, 0.0), (4, 1.0), (40, 0.0), (40, 1.0)):
        if new == 40 and name == "gpt2, several ends":  # it may come to one of them first, or not
            continue
        sampling = Sampling(new, temperature=temperature, seed=1)
        file = io.StringIO()
        if new == 40 and name in WITH_AN_END:
            with pytest.raises(UserError, match="longer than the 16 positions of this model: give"):
                stream(model, tokenizer, "the cat", sampling, file)
            with pytest.raises(UserError, match="longer than the 16 positions of this model: give"):
                continuations(model, tokenizer, "the cat", sampling)
            continue
        stream(model, tokenizer, "the cat", sampling, file)
        assert [file.getvalue()] == [
            text + "\n" for text in continuations(model, tokenizer, "the cat", sampling)
        ]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_refused(name: str, temperature: float) -> None:
    """The likeliest of them would be the first token, for ever, and without a word."""
    tokenizer = kinds.byte_level()
    model = FOREIGN[name](len(tokenizer)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"are NaN: its weights are damaged"):
        continuations(model, tokenizer, "the cat", Sampling(5, temperature=temperature))
    assert not model._forward_hooks


CONFIGS: list[dict[str, Any]] = [
    {"num_beams": 4, "num_return_sequences": 3},
    {"return_dict_in_generate": True, "output_scores": True},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "high"},
    {"temperature": 0.0, "do_sample": True},
    {"max_length": 3, "min_length": 2},
    {"stop_strings": ["t", "\x00"]},
    {"eos_token_id": [1, 5], "pad_token_id": 3},
    {"prompt_lookup_num_tokens": 3},
    {"assistant_early_exit": 1},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("name", ["gpt2", "rwkv", "llama", "lumiere"])
def test_one_text_comes_whatever_is_saved_with_the_model(name: str, config: dict[str, Any]) -> None:
    """In its generation_config.json: it may speak of beams, of full outputs, of methods by code."""
    tokenizer = kinds.byte_level()
    torch.manual_seed(0)
    if name == "lumiere":
        settings = LumiereConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **TINY)
        model: Any = LumiereForCausalLM(settings).eval()
    else:
        model = FOREIGN[name](len(tokenizer)).eval()
    for key, value in config.items():
        setattr(model.generation_config, key, value)
    for temperature in (0.0, 1.0):
        sampling = Sampling(8, temperature=temperature, seed=1)
        file = io.StringIO()
        stream(model, tokenizer, "the", sampling, file)
        assert [file.getvalue()] == [
            text + "\n" for text in continuations(model, tokenizer, "the", sampling)
        ]


def test_a_file_that_takes_ascii_only_says_so_itself() -> None:
    tokenizer = kinds.byte_level()
    model = FOREIGN["llama"](len(tokenizer))
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.raises(UnicodeEncodeError):
        stream(model, tokenizer, "the", Sampling(60, temperature=5.0, seed=1), file)


def test_an_encoder_is_refused() -> None:
    model = BertLMHeadModel(BertConfig(vocab_size=290, **ONE, initializer_range=0.5)).eval()
    with pytest.raises(UserError, match="not causal"):
        check_causal_briefly(model)
    config = BertConfig(vocab_size=290, **ONE, initializer_range=0.5, is_decoder=True)
    check_causal_briefly(BertLMHeadModel(config).eval())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    tokenizer = kinds.byte_level()
    model = FOREIGN["gpt2"](20)
    with pytest.raises(UserError, match="the model has 20 embeddings: they do not belong together"):
        continuations(model, tokenizer, "the cat", Sampling())


def test_whatever_a_model_raises_is_a_sentence() -> None:
    tokenizer = kinds.byte_level()
    model = FOREIGN["llama"](len(tokenizer))
    for error in (KeyError("x"), RecursionError(), AssertionError(), ZeroDivisionError("a\nb")):
        hook = model.model.register_forward_hook(raising(error))
        with pytest.raises(
            UserError, match=r"LlamaForCausalLM cannot continue .*: check that it is"
        ):
            continuations(model, tokenizer, "the cat", Sampling())
        hook.remove()
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        hook = model.model.register_forward_hook(raising(error))
        with pytest.raises(UserError, match="there is not enough memory for a text of this length"):
            continuations(model, tokenizer, "the cat", Sampling())
        hook.remove()
    for passing in (BrokenPipeError(), KeyboardInterrupt()):
        hook = model.model.register_forward_hook(raising(passing))
        with pytest.raises(type(passing)):
            stream(model, tokenizer, "the cat", Sampling(), io.StringIO())
        hook.remove()


def raising(error: BaseException) -> Callable[..., None]:
    def hook(*_: object) -> None:
        raise error

    return hook


def started(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """``lumenspark generate`` in a process of its own, writing more than anyone would wait for."""
    command = [sys.executable, "-m", "lumenspark", "generate", str(folder), "the cat", *arguments]
    return subprocess.Popen(
        [*command, "--max-new-tokens=10000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.parametrize("stop", ["interrupt", "close"])
def test_stopped_while_it_writes(folder: Path, stop: str) -> None:
    """By Ctrl-C, or by a reader that has gone: nothing is said, and the exit code is the shell's.

    The terminal prints ASCII only, and the text has more than that.
    """
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with started(folder, "--temperature=5", "--seed=1", env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(200).startswith(b"the cat")
        if stop == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == (130 if stop == "interrupt" else 0)
    assert said == (b"lumenspark: stopped by Ctrl-C\n" if stop == "interrupt" else b"")
