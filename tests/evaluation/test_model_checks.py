"""Models of many kinds, small and random: what context they take, and whether they see ahead."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

from lumenspark.compression.compress_model import TextSettings, compress_model
from lumenspark.data.corpora import open_corpus
from lumenspark.data.tokenizer import train_tokenizer
from lumenspark.errors import UserError
from lumenspark.evaluation.model_checks import (
    check_causal,
    check_causal_briefly,
    default_context,
    usable_context,
)
from lumenspark.models import LumiereConfig, LumiereForCausalLM

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 34,
}
DECODER = {
    "vocab_size": 40,
    "d_model": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 34,
}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 34}
EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4}
IDS = np.random.default_rng(0).integers(3, 40, 200)

CAUSAL = {
    "Roberta": (SIZES | {"is_decoder": True, "pad_token_id": 1}, 32),
    "XLMRoberta": (SIZES | {"is_decoder": True, "pad_token_id": 3}, 30),
    "Camembert": (SIZES | {"is_decoder": True, "pad_token_id": 0}, 33),
    "Data2VecText": (SIZES | {"is_decoder": True, "pad_token_id": 1}, 32),
    "Bert": (SIZES | {"is_decoder": True}, 34),
    "GPT2": (GPT2, 34),
    "Llama": (SIZES, 34),
    "Mixtral": (SIZES | EXPERTS, 34),
    "OPT": (
        {name: SIZES[name] for name in SIZES if name != "intermediate_size"}
        | {"ffn_dim": 32, "word_embed_proj_dim": 16},
        34,
    ),
    "BioGpt": (SIZES, 34),
    "Bart": (DECODER, 34),
    "XGLM": (
        {"vocab_size": 40, "d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 32}
        | {"max_position_embeddings": 34},
        34,
    ),
    "CTRL": (GPT2 | {"dff": 32}, 34),
    "GPTNeoX": (SIZES, 34),
    "Mpt": ({"vocab_size": 40, "d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 34}, 34),
    "Bloom": ({"vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2}, 1024),
    "Mamba": ({"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1}, 1024),
}


def made(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models(name: str, dtype: torch.dtype) -> None:
    options, context = CAUSAL[name]
    model = made(name, options, dtype)
    assert default_context(model) == context
    check_causal(model, IDS, min(context, 34))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize("name", ["Bert", "Roberta", "XLMRoberta", "Electra", "XLNet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_see_both_sides(name: str, dtype: torch.dtype) -> None:
    xlnet = {"vocab_size": 40, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}
    model = made(name, xlnet if name == "XLNet" else SIZES, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match="the model is not causal"):
        check_causal(model, IDS, 32)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_of_encoder_and_decoder_reads_the_whole_text_first() -> None:
    options = DECODER | {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    config = transformers.BartConfig(**options)
    with pytest.raises(UserError, match="the model is not causal"):
        check_causal(transformers.BartForConditionalGeneration(config), IDS, 32)
    t5 = transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1)
    with pytest.raises(UserError, match="does not run on token ids alone"):
        default_context(transformers.T5ForConditionalGeneration(t5))


@pytest.mark.parametrize("name", ["GPT2Model", "GPT2ForSequenceClassification"])
def test_models_that_predict_no_tokens(name: str) -> None:
    model = getattr(transformers, name)(transformers.GPT2Config(**GPT2))
    with pytest.raises(UserError, match="does not predict next tokens"):
        default_context(model)


class Bag(nn.Module):
    """A model of which every rule is known: a table of logits, summed over the tokens it sees."""

    def __init__(self, sees: Any, noise: float = 0.0, entries: int = 40) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(entries, entries)
        self.sees, self.noise = sees, noise
        self.config = transformers.PreTrainedConfig(vocab_size=entries)
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutput:
        length = input_ids.shape[1]
        row, column = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
        seen = self.sees(row, column, length).float()
        logits = seen @ self.table(input_ids) / (1 + row[:, :1])
        return CausalLMOutput(logits=logits + self.noise * torch.randn_like(logits))


def past(row: Tensor, column: Tensor, length: int) -> Tensor:
    return column <= row


LEAKS = {
    "everything": lambda row, column, length: torch.ones_like(row),
    "the next token": lambda row, column, length: column <= row + 1,
    "a token far ahead": lambda row, column, length: (column <= row) | (column == row + 9),
    "a prefix": lambda row, column, length: (column <= row) | (column < 6),
    "blocks of eight": lambda row, column, length: column // 8 <= row // 8,
    "only the last half": lambda row, column, length: (column <= row) | (row >= length // 2),
    "only long texts": lambda row, column, length: (column <= row) | (length > 60),
    "only short texts": lambda row, column, length: (column <= row) | (length < 10),
    "the last token": lambda row, column, length: (column <= row) | (column == length - 1),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("length", [64, 100])
def test_what_sees_ahead_in_some_places_only(leak: str, noise: float, length: int) -> None:
    """Noise that a model draws is the same in each pass, so it hides nothing."""
    with pytest.raises(UserError, match="the model is not causal"):
        check_causal(Bag(LEAKS[leak], noise), IDS, length)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 64, 1000])
def test_what_sees_only_the_past(length: int) -> None:
    for noise in (0.0, 1.0):
        check_causal(Bag(past, noise), IDS, length)
    check_causal(Bag(lambda row, column, length: torch.zeros_like(row)), IDS, length)
    check_causal(Bag(past, entries=1), np.zeros(50, np.int64), length)


def test_a_text_of_one_token_only_still_shows_it() -> None:
    with pytest.raises(UserError, match="the model is not causal"):
        check_causal(Bag(LEAKS["the next token"]), np.full(100, 7), 64)


def test_dropout_and_mode() -> None:
    model = made("GPT2", GPT2 | {"resid_pdrop": 0.5, "embd_pdrop": 0.5}).train()
    before = torch.random.get_rng_state()
    check_causal(model, IDS, 32)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_memory_is_no_shorter_context(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("GPT2", GPT2)

    def forward(**inputs: Tensor) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(UserError, match="not enough memory to run the model on 34 tokens"):
        usable_context(model, 34)


def test_compressing_reads_no_position_that_is_not_there(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for split in ("train", "test"):
        (text / f"{split}.txt").write_text("a kettle is a pot with a lid . " * 200)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(["a kettle is a pot"], 300), bos_token="<|sot|>"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = SIZES | {"vocab_size": 300, "pad_token_id": 2}
    for is_decoder in (True, False):
        model = made("Roberta", sizes | {"is_decoder": is_decoder})
        model.save_pretrained(tmp_path / "model")
        out = tmp_path / f"out-{is_decoder}"
        compressed = partial(
            compress_model,
            str(tmp_path / "model"),
            out,
            params=0.5,
            device="cpu",
            text=TextSettings(
                open_corpus(str(text)), "test", calibration_tokens=600, finetune_time="1s"
            ),
        )
        if is_decoder:
            scores = compressed().scores
            assert {score.context for score in scores.values()} == {31}
        else:
            with pytest.raises(UserError, match="the model is not causal"):
                compressed()
            assert not out.exists()


def test_a_model_of_ours_is_not_run_before_it_generates() -> None:
    """It is causal by construction, and some twenty forward passes would delay the first word."""
    model, calls = LumiereForCausalLM(LumiereConfig()), []
    model.register_forward_hook(lambda *_: calls.append(1))
    check_causal_briefly(model)
    assert not calls
    check_causal(model, IDS, 32)
    assert calls
