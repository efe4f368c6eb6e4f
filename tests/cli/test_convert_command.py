"""lumenspark convert: a checkpoint of lumenspark 0.1 becomes a folder of today's."""

import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import lumenspark as lumenspark_command
from old_checkpoint import FROM_TRANSFORMERS, SIZES, old_logits, old_tensors, write_old
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import lumenspark
from lumenspark.cli import run
from lumenspark.data.tokenizer import to_transformers, train_tokenizer

TEXT = "The lighthouse stands on the last rock of the coast, and its lamp is lit at dusk. " * 3
IDS = torch.arange(40, 60)[None]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``lumenspark convert``, which must succeed; what it printed."""

    def run_and_read(*arguments: object) -> str:
        code = run(["convert", *map(str, arguments)])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return run_and_read


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``lumenspark convert``, which must fail as a user's error does; its one sentence."""

    def run_and_read(*arguments: object) -> str:
        assert run(["convert", *map(str, arguments)]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("lumenspark: ")
        assert printed.count("\n") == 1
        return printed

    return run_and_read


@pytest.fixture
def old(tmp_path: Path) -> Path:
    write_old(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "made" / "new"


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return train_tokenizer([TEXT], 300)


@pytest.mark.parametrize("more", [{}, FROM_TRANSFORMERS], ids=["eight keys", "by transformers"])
def test_the_new_folder_computes_the_same(
    convert: Callable[..., str], old: Path, new: Path, more: dict[str, Any]
) -> None:
    tensors = write_old(old, more=more)
    printed = convert(old, new)
    model = AutoModelForCausalLM.from_pretrained(new)
    expected = old_logits(tensors, IDS[0])
    torch.testing.assert_close(model(IDS).logits[0], expected, rtol=0, atol=1e-4)
    assert f"{sum(tensor.numel() for tensor in tensors.values()):,} parameters" in printed
    assert "has no tokenizer" in printed
    files = {path.name for path in new.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json"} < files
    assert {"modeling_lumenspark.py", "legacy_checkpoints.py"} < files
    assert not any(name.startswith(".") for name in files)
    assert "AutoModelForCausalLM" in model.config.auto_map


def test_the_tokenizer_comes_along(
    convert: Callable[..., str], old: Path, new: Path, learned: Tokenizer
) -> None:
    to_transformers(learned, 24).save_pretrained(old)
    assert "has no tokenizer" not in convert(old, new)
    model, tokenizer = lumenspark.load(str(new))
    assert tokenizer("The lamp")["input_ids"] == learned.encode("The lamp").ids
    assert model.generate(text="The lamp", max_new_tokens=40).startswith("The lamp")


def test_the_tokenizer_from_elsewhere(
    convert: Callable[..., str], old: Path, new: Path, tmp_path: Path, learned: Tokenizer
) -> None:
    to_transformers(learned, 24).save_pretrained(tmp_path / "tokenizer")
    convert(old, new, "--tokenizer", tmp_path / "tokenizer")
    ids = AutoTokenizer.from_pretrained(new)("The lamp is lit")["input_ids"]
    assert ids == learned.encode("The lamp is lit").ids


def test_the_tokenizer_as_gpt_2s_is_published(
    convert: Callable[..., str], old: Path, new: Path
) -> None:
    learned = train_tokenizer([TEXT], 299)
    learned.model.save(str(old))  # vocab.json and merges.txt
    convert(old, new)
    tokenizer = AutoTokenizer.from_pretrained(new)
    expected = learned.encode("The lamp is lit", add_special_tokens=False).ids
    assert tokenizer("The lamp is lit")["input_ids"] == expected
    assert tokenizer.eos_token == "<|endoftext|>"


def test_attention_layers_of_low_rank(
    convert: Callable[..., str], old: Path, new: Path, tmp_path: Path
) -> None:
    printed = convert(old, new, "--attention-rank", "9")
    tensors = old_tensors()
    for name, weight in tensors.items():
        if ".attn." not in name or not name.endswith("weight"):
            continue
        left, singular, right = torch.linalg.svd(weight)
        tensors[name] = left[:, :9] * singular[:9] @ right[:9]
        error = float((weight - tensors[name]).norm() / weight.norm())
        layer = name.replace("attn", "attention").replace("output_transform", "o_proj")
        assert re.search(rf"model\.{layer.removesuffix('.weight')} +9 +{error:.4f}", printed)
    model = AutoModelForCausalLM.from_pretrained(new)
    expected = old_logits(tensors, IDS[0])
    torch.testing.assert_close(model(IDS).logits[0], expected, rtol=0, atol=1e-3)
    assert model.config.rank_of("model.layers.1.attention.v_proj") == 9
    assert model.model.layers[1].attention.v_proj.rank == 9
    convert(old, tmp_path / "dense")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (new, tmp_path / "dense")]
    assert sizes[0] < sizes[1]


def test_low_rank_attention(
    convert: Callable[..., str], old: Path, new: Path, tmp_path: Path
) -> None:
    printed = convert(old, new, "--k", "4", "--window", "3")
    assert "train the model before use" in printed
    model, report = AutoModelForCausalLM.from_pretrained(new, output_loading_info=True)
    assert not any(report.values())
    assert (model.config.k, model.config.window) == (4, 3)
    convert(old, tmp_path / "dense")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    weights = load_file(new / "model.safetensors")
    assert all(torch.equal(weights.pop(name), weight) for name, weight in dense.items())
    assert set(weights) == {f"model.layers.{layer}.attention.write" for layer in (0, 1)}
    # Blocks of 3: up to its sixth token a text is read exactly, and so as before.
    expected = old_logits(old_tensors(), IDS[0])
    torch.testing.assert_close(model(IDS).logits[0, :6], expected[:6], rtol=0, atol=1e-4)
    assert not torch.allclose(model(IDS).logits[0, 6:], expected[6:], atol=1e-2)
    assert model.generate(IDS, max_new_tokens=30).shape == (1, 50)
    convert(old, tmp_path / "again", "--k", "4", "--window", "3")
    again = tmp_path / "again" / "model.safetensors"
    assert again.read_bytes() == (new / "model.safetensors").read_bytes()


def test_low_rank_throughout(convert: Callable[..., str], old: Path, new: Path) -> None:
    printed = convert(old, new, "--k", "0", "--attention-rank", "5")
    assert "was trained with full attention" in printed
    model, report = AutoModelForCausalLM.from_pretrained(new, output_loading_info=True)
    assert not any(report.values())
    assert (model.config.k, model.config.window) == (0, 64)
    assert model(IDS).logits.isfinite().all()


def test_an_empty_folder_may_be_there(convert: Callable[..., str], old: Path, new: Path) -> None:
    new.mkdir(parents=True)
    convert(old, new)
    assert (new / "config.json").is_file()


def test_a_folder_that_is_not_empty(refused: Callable[..., str], old: Path, new: Path) -> None:
    new.mkdir(parents=True)
    (new / "notes.txt").write_text("keep me")
    assert "give a new or empty folder" in refused(old, new)
    assert [path.name for path in new.iterdir()] == ["notes.txt"]
    assert "give a new or empty folder" in refused(old, new / "notes.txt")
    assert "give a new or empty folder" in refused(old, old)


def test_what_is_already_in_todays_layout(
    convert: Callable[..., str], refused: Callable[..., str], old: Path, new: Path, tmp_path: Path
) -> None:
    convert(old, new)
    assert "is in the current format already" in refused(new, tmp_path / "newer")
    assert not (tmp_path / "newer").exists()


def test_what_is_no_checkpoint_of_it(
    refused: Callable[..., str], old: Path, new: Path, tmp_path: Path, trained: Path
) -> None:
    assert "is no folder and no run" in refused(tmp_path / "nothing", new)
    assert "has neither a model (config.json) nor a run" in refused(tmp_path, new)
    printed = refused(trained, new)
    assert "is not a checkpoint of lumenspark 0.1" in printed
    assert "lacks seq_length, embed_dim, depth, heads, rank" in printed
    (old / "config.json").write_text("{")
    assert "config.json cannot be read (Expecting property name" in refused(old, new)
    assert not new.exists()


def test_weights_that_are_missing_or_wrong(
    refused: Callable[..., str], old: Path, new: Path
) -> None:
    weights = old / "model.safetensors"
    weights.write_bytes(b"short")
    assert "model.safetensors cannot be read" in refused(old, new)
    tensors = old_tensors()
    del tensors["layers.1.norm2.bias"]
    write_old(old, tensors)
    assert "the old checkpoint has no layers.1.norm2.bias" in refused(old, new)
    weights.rename(old / "pytorch_model.bin")
    printed = refused(old, new)
    assert "holds no model.safetensors, and pytorch_model.bin is a pickle" in printed
    assert not new.exists()


@pytest.mark.parametrize("rank", ["0", "16", "-3"])  # two factors of rank 16 are a dense layer
def test_a_rank_that_saves_nothing(
    refused: Callable[..., str], old: Path, new: Path, rank: str
) -> None:
    assert SIZES["embed_dim"] == 32
    assert "choose one from 1 to 15" in refused(old, new, "--attention-rank", rank)
    assert not new.exists()


def test_slots_and_windows_that_cannot_be(
    refused: Callable[..., str], old: Path, new: Path
) -> None:
    assert "k=-1 must be 0 or more" in refused(old, new, "--k", "-1")
    assert "window=0 must be 1 or more" in refused(old, new, "--k", "4", "--window", "0")
    assert "--window needs --k" in refused(old, new, "--window", "4")
    assert not new.exists()


def test_tokenizers_that_do_not_fit(
    refused: Callable[..., str], old: Path, new: Path, tmp_path: Path
) -> None:
    assert "has no tokenizer: give a folder" in refused(old, new, "--tokenizer", old)
    assert "is no file or folder, nor a hub id" in refused(
        old, new, "--tokenizer", tmp_path / "none"
    )
    to_transformers(train_tokenizer([TEXT], 301), 24).save_pretrained(tmp_path / "large")
    printed = refused(old, new, "--tokenizer", tmp_path / "large")
    assert "has 301 tokens, the model 300" in printed
    assert not new.exists()


@pytest.mark.slow
def test_a_full_disk(old: Path, new: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # the weights are larger

    done = lumenspark_command("convert", str(old), str(new), preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert "lumenspark: the weights cannot be written (" in done.stderr
    assert not list(new.parent.iterdir())
