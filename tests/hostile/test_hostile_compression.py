"""Architectures that cannot be compressed, or in part, and options that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import CONTEXT, TEXT, VOCABULARY, save_family
from old_checkpoint import write_old
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

import lumenspark
import lumenspark.compression.compress_model
from lumenspark.cli import run
from lumenspark.compression.compress_model import TextSettings, compress_model
from lumenspark.data.corpora import open_corpus
from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.errors import UserError

TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RWKV = {"num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 64}
MAMBA = {"num_hidden_layers": 1, "state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "falcon": lambda: FalconForCausalLM(FalconConfig(**TOKENS, **SMALL)),
    "rwkv": lambda: RwkvForCausalLM(RwkvConfig(**TOKENS, hidden_size=32, **RWKV)),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**TOKENS, **SMALL, num_key_value_heads=1, intermediate_size=64)
    ),
    "mamba2": lambda: Mamba2ForCausalLM(Mamba2Config(**TOKENS, hidden_size=32, **MAMBA)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**TOKENS, hidden_size=32, n_layer=1, n_head=2)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**TOKENS, **SMALL, intermediate_size=64)),
}
BIG = str(10**12)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    def save(architecture: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / architecture
        ARCHITECTURES[architecture]().save_pretrained(folder)
        to_transformers(train_tokenizer([TEXT], VOCABULARY), CONTEXT).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text(TEXT * 60)
    return folder


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed as the one sentence of a user's error."""
    printed = capsys.readouterr().err
    assert printed.startswith("lumenspark: ")
    assert printed.count("\n") == 1
    assert len(printed) < 600
    return printed


def test_layers_of_a_subclass_are_refused_before_any_text_is_read(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path
) -> None:
    corpus = open_corpus(str(text))
    monkeypatch.setattr(
        lumenspark.compression.compress_model, "prepare", None
    )  # calling it is an error
    monkeypatch.setattr(lumenspark.compression.compress_model, "evaluate", None)
    with pytest.raises(
        UserError, match=r"no compressible layers.*not their subclasses.*4 FalconLinear"
    ):
        compress_model(
            str(saved("falcon")), tmp_path / "out", params=0.5, text=TextSettings(corpus)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("with_text", [False, True])
def test_what_does_not_load_again_is_no_folder(
    with_text: bool,
    saved: Callable[[str], Path],
    tmp_path: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--data", str(text), "--calibration-tokens", "64"] if with_text else []
    out = tmp_path / "out"
    assert run(["compress", str(saved("rwkv")), str(out), "--rank", "4", *more]) == 2
    printed = capsys.readouterr()
    assert "cannot be compressed" in printed.err
    assert "choose a model of another architecture" in printed.err
    assert "is a model like any other" not in printed.out
    assert not out.exists()


def test_a_folder_that_gives_other_logits_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = lumenspark.compression.compress_model.load

    def altered(name: str, *others: Any, **options: Any) -> Any:
        model, tokenizer = real(name, *others, **options)
        if ".out-" in name:  # what has just been saved
            model.model.norm.weight.data.mul_(1.5)
        return model, tokenizer

    monkeypatch.setattr(lumenspark.compression.compress_model, "load", altered)
    folder = save_family("llama", tmp_path / "llama")
    assert run(["compress", str(folder), str(tmp_path / "out"), "--rank", "2"]) == 2
    assert "gives different logits" in sentence(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "left"),
    [
        ("mixtral", "1 MixtralTopKRouter, 1 MixtralExperts"),
        ("mamba2", "1 Conv1d"),
        ("bloom", None),
        ("neox", None),
    ],
)
def test_what_is_left_is_counted(
    architecture: str,
    left: str | None,
    saved: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, out = saved(architecture), tmp_path / "out"
    assert run(["compress", str(folder), str(out), "--rank", "4"]) == 0
    printed = capsys.readouterr().out
    begin = "unchanged, besides embeddings and output: "
    assert (f"{begin}{left}\n" in printed) if left else (begin not in printed)
    lumenspark.load(str(out))


@pytest.mark.parametrize(
    "options",
    [
        ["--params", "nan"],
        ["--params", "inf"],
        ["--params", "-1"],
        ["--params", "0"],
        ["--params", "1"],
        ["--params", "1e-300"],
        ["--energy", "2"],
        ["--energy", "nan"],
        ["--energy", "-inf"],
        ["--rank", "-1"],
        ["--rank", "0"],
        ["--rank", BIG],
        ["--rank", "2", "--energy", "0.5"],
        ["--rank", "2", "--finetune", "nan"],
        ["--rank", "2", "--finetune", "-1s"],
        ["--rank", "2", "--finetune", "9" * 400 + "s"],
        ["--rank", "2", "--finetune", "1s", "--finetune-lr", "inf"],
        ["--rank", "2", "--finetune", "1s", "--finetune-lr", "nan"],
        ["--rank", "2", "--finetune", "1s", "--finetune-lr", "-1"],
        ["--rank", "2", "--calibration-tokens", "-1"],
        ["--rank", "2", "--split", "nothing"],
        ["--rank", "2", "--revision", "v1"],
    ],
    ids=lambda options: " ".join(options)[:40],
)
def test_options_that_cannot_be(
    options: list[str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = save_family("lumiere", tmp_path / "model"), tmp_path / "out"
    needs_text = any(word in options for word in ("--finetune", "--calibration-tokens", "--split"))
    more = ["--data", str(text)] if needs_text else []
    assert run(["compress", str(folder), str(out), *options, *more]) == 2
    sentence(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--k", BIG],
        ["--k", "10000000000"],
        ["--k", "-1"],
        ["--k", "3", "--window", "-1"],
        ["--attention-rank", BIG],
        ["--attention-rank", "0"],
        ["--tokenizer", "/dev/null"],
        ["--tokenizer", "a@b"],
        ["--revision", "v1"],
    ],
    ids=" ".join,
)
def test_conversions_that_cannot_be(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_old(tmp_path / "old")
    assert run(["convert", str(tmp_path / "old"), str(tmp_path / "out"), *options]) == 2
    sentence(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["the lamp"], ["--heads"]], ids=["text", "heads"])
@pytest.mark.parametrize("architecture", ["bloom", "mamba2"])
def test_architectures_that_cannot_be_looked_into(
    architecture: str,
    options: list[str],
    saved: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.html"
    assert run(["inspect", str(saved(architecture)), *options, "-o", str(page)]) == 2
    assert "cannot be inspected: pass a language model of one of the" in sentence(capsys)
    assert not page.exists()
