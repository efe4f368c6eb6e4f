"""lumenspark compress, from the command line to a folder that works."""

import json
import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import lumenspark
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lumenspark as package
from lumenspark.cli import run
from lumenspark.compression.compress_model import train_windows
from lumenspark.compression.finetune import finetune
from lumenspark.data.corpora import open_corpus
from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.data.windows import TrainingWindows
from lumenspark.errors import UserError
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run
from lumenspark.training.losses import make_loss

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def refused(capsys: Capture, tmp_path: Path) -> Callable[..., str]:
    """Run a command line that must fail as a user's error does, and write nothing."""

    def run_and_read(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert run([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("lumenspark: ")
        assert printed.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return printed

    return run_and_read


@pytest.fixture(scope="module")
def gpt2(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-2 of random weights, and a tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=300, bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    texts = [open_corpus(str(text_folder)).text("validation")]
    to_transformers(train_tokenizer(texts, 300), 32).save_pretrained(folder)
    return folder


def test_a_run_is_compressed_by_its_own_text(
    copied: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    out = tmp_path / "made" / "small"
    printed = call("compress", copied, out, "--params", "0.5", "--calibration-tokens", "2000")
    model, _ = package.load(str(copied))
    small, _ = package.load(str(out))
    counts = [sum(weight.numel() for weight in each.parameters()) for each in (model, small)]
    assert f"{counts[1]:,} of {counts[0]:,} parameters" in printed
    assert "whitened" in printed
    rows = re.findall(
        r"^(model\.\S+) +(\d+) x (\d+) +(\d+|dense) +(\S*) +([\d,]+) +([\d,]+)", printed, re.M
    )
    assert len(rows) == len([name for name, _ in model.named_modules() if name.endswith("_proj")])
    for name, _, _, rank, _, weights, before in rows:
        layer = small.get_submodule(name)
        assert sum(weight.numel() for weight in layer.parameters()) == int(weights.replace(",", ""))
        assert model.get_submodule(name).weight.numel() == int(before.replace(",", ""))
        assert rank == "dense" or layer.rank == int(rank)
    # The losses are those that evaluate prints.
    losses = dict(re.findall(r"^(original|compressed) +([\d.]+)", printed, re.M))
    data = Run(copied).recipe().data
    for name, stage in ((copied, "original"), (out, "compressed")):
        figures = json.loads(call("evaluate", name, "--data", data, "--json"))
        assert float(losses[stage]) == pytest.approx(figures["loss"], abs=1e-4)
    assert call("generate", out, "The list", "--max-new-tokens", "5").startswith("The list")


def test_nine_tenths_of_the_parameters_are_kept_by_default(
    copied: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    printed = call("compress", copied, tmp_path / "small", "--calibration-tokens", "2000")
    (kept,) = re.findall(r"these layers keep ([\d.]+)% of theirs", printed)
    assert 85 < float(kept) <= 90


def test_perplexity_that_more_than_doubles_is_written_with_force_only(
    gpt2: Path, tmp_path: Path, refused: Callable[..., str], capsys: Capture
) -> None:
    """A model that knows a sentence by heart, and keeps rank 1."""
    text_folder = tmp_path / "text"
    text_folder.mkdir()
    for split in ("train", "test"):
        sentence = "When a list is sorted, each item stands before those that are greater.\n"
        (text_folder / f"{split}.txt").write_text(200 * sentence)
    given = ("--rank", "1", "--calibration-tokens", "0", "--data", text_folder)
    model, tokenizer = package.load(str(gpt2))
    corpus, quiet = open_corpus(str(text_folder)), Reporter(Console(quiet=True))
    windows = train_windows(corpus, gpt2, model, quiet)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(100):
        ids = torch.from_numpy(windows.batch(8 * step, 8))
        optimizer.zero_grad()
        model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss.backward()
        optimizer.step()
    sharp = tmp_path / "sharp"
    for saved in (model, tokenizer):
        saved.save_pretrained(sharp)
    out = tmp_path / "small"
    printed = refused("compress", sharp, out, *given)
    before, after = map(float, re.findall(r"from ([\d.e+]+) to ([\d.e+]+),", printed)[0])
    assert after > 2 * before
    assert "nothing was written" in printed
    assert run(["compress", *map(str, (sharp, out, *given)), "--force"]) == 0
    assert f"warning: perplexity rises from {before:.4g} to {after:.4g}" in capsys.readouterr().out
    assert package.load(str(out))


def test_a_foreign_model_without_a_text(
    gpt2: Path, tmp_path: Path, text_folder: Path, call: Callable[..., str]
) -> None:
    """And without --trust-remote-code: what it has made itself, this package knows."""
    out = tmp_path / "small"
    out.mkdir()
    printed = call("compress", gpt2, out, "--rank", "6")
    assert "of the weights (plain SVD)" in printed
    assert "there is no text, so neither loss nor perplexity is measured" in printed
    model, _ = package.load(str(out))
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.transformer.h[0].attn.c_attn.rank == 6
    assert call("generate", out, "The list", "--max-new-tokens", "5").startswith("The list")
    figures = json.loads(call("evaluate", out, "--data", text_folder, "--json"))
    assert 0 < figures["bits_per_byte"] < 20
    again = tmp_path / "smaller"
    call("compress", out, again, "--rank", "3")
    model, _ = package.load(str(again))
    assert model.transformer.h[0].attn.c_attn.rank == 3


def test_finetuning(
    gpt2: Path, tmp_path: Path, text_folder: Path, call: Callable[..., str]
) -> None:
    out = tmp_path / "small"
    arguments = ("--energy", "0.5", "--calibration-tokens", "2000", "--finetune", "1s")
    printed = call("compress", gpt2, out, *arguments, "--data", text_folder)
    stages = re.findall(r"^(compressed|finetuned)(?: \([\d,]+ steps\))? +([\d.]+)", printed, re.M)
    loss = {stage: float(value) for stage, value in stages}
    assert loss["finetuned"] < loss["compressed"]
    figures = json.loads(call("evaluate", out, "--data", text_folder, "--json"))
    assert loss["finetuned"] == pytest.approx(figures["loss"], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finetuning_lowers_the_loss_and_leaves_the_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).to(dtype).eval()
    windows = TrainingWindows(np.arange(2000) % 50, context=16, seed=0)
    loss_of = make_loss(model, "cpu", bf16=False)
    batch = torch.from_numpy(windows.batch(0, 8))
    before = loss_of(batch).item()
    steps = finetune(model, windows, 0.5, 1e-3, Reporter(Console(quiet=True)))
    assert steps >= 1
    assert loss_of(batch).item() < before
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert not model.training


def test_finetuning_leaves_tables_that_are_no_weights_as_they_are() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            dtype=torch.bfloat16,
        )
    ).to(torch.bfloat16)
    frequencies = model.model.rotary_emb.inv_freq.float()
    model.model.rotary_emb.inv_freq = frequencies  # float32, as from_pretrained leaves it
    windows = TrainingWindows(np.arange(2000) % 50, context=16, seed=0)
    finetune(model, windows, 0.1, 1e-3, Reporter(Console(quiet=True)))
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_finetuning_that_leads_nowhere() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config)
    model.transformer.wte.weight.data[3] = torch.nan
    windows = TrainingWindows(np.arange(2000) % 50, context=16, seed=0)
    with pytest.raises(UserError, match="fine-tuning diverged at step 0"):
        finetune(model, windows, 0.5, 1e-3, Reporter(Console(quiet=True)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rank", "4", "--params", "0.5"], "exactly one"),
        (["--rank", "0"], "rank is 0: it must be 1 or more"),
        (["--energy", "1.2"], "energy is 1.2"),
        (["--params", "1.0"], "params is 1.0"),
        (["--rank", "400"], "rank 400 saves no weights in any layer"),
        (["--params", "0.001"], "rank 1 in every layer already takes"),
        (["--rank", "4", "--finetune", "1m"], "is not a run and has no recorded text: give --data"),
        (
            ["--rank", "4", "--corpus.layout", "plain"],
            "is not a run and has no recorded text: give --data",
        ),
        (
            ["--rank", "4", "--data", "{text}", "--finetune", "5"],
            "finetune: a time of 5 what: write 5s, 5m or 5h",
        ),
        (
            ["--rank", "4", "--data", "{text}", "--finetune", "soon"],
            "finetune: a budget is a time such as",
        ),
        (["--rank", "4", "--data", "{text}", "--finetune-lr", "0"], "finetune_lr is 0.0"),
        (
            ["--rank", "4", "--data", "{text}", "--calibration-tokens", "-1"],
            "calibration_tokens is -1",
        ),
        (
            ["--rank", "4", "--data", "{text}", "--calibration-tokens", "9"],
            "32 calibration tokens are too few",
        ),
        (["--rank", "4", "--data", "{text}", "--split", "tset"], "there is no split 'tset'"),
        (["--rank", "4", "--data", "nowhere.txt"], "there is no file or folder nowhere.txt"),
    ],
)
def test_what_cannot_be_asked(
    arguments: list[str],
    reason: str,
    gpt2: Path,
    text_folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    given = [argument.format(text=text_folder) for argument in arguments]
    assert reason in refused("compress", gpt2, tmp_path / "small", *given)


def test_a_text_shorter_than_one_window(
    gpt2: Path, text_folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("A few words.")
    printed = refused("compress", gpt2, tmp_path / "small", "--rank", "4", "--data", tmp_path)
    assert "one window needs 33" in printed


def test_nothing_is_ever_overwritten(
    gpt2: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        printed = refused("compress", gpt2, tmp_path / name, "--rank", "4")
        assert f"{name} exists already: give a new or empty folder" in printed
    assert "exists already" in refused("compress", gpt2, gpt2, "--rank", "4")
    assert "cannot be created" in refused("compress", gpt2, tmp_path / "file" / "in", "--rank", "4")


def test_a_full_disk_leaves_nothing_behind(gpt2: Path, tmp_path: Path) -> None:
    largest = 20_000  # bytes of a file; the weights are larger

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    arguments = ("compress", str(gpt2), str(tmp_path / "small"), "--rank", "4")
    done = lumenspark(*arguments, preexec_fn=limit, env=dict(os.environ))
    assert done.returncode == 2, done.stderr
    assert f"lumenspark: {tmp_path / 'small'} could not be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_compressed(
    gpt2: Path, tmp_path: Path, call: Callable[..., str], refused: Callable[..., str]
) -> None:
    call("compress", gpt2, tmp_path / "least", "--rank", "1")
    printed = refused("compress", tmp_path / "least", tmp_path / "less", "--rank", "1")
    assert "a GPT2LMHeadModel has no compressible layers" in printed
    printed = refused("compress", "nothing", tmp_path / "less", "--rank", "1")
    assert "'nothing' is no folder and no run" in printed


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_without_a_tokenizer(
    kind: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Transformers makes up an empty one for a GPT-2, and none for a Llama."""
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, vocab_size=300, **sizes))
    model.save_pretrained(tmp_path / "bare")
    printed = refused("compress", tmp_path / "bare", tmp_path / "small", "--rank", "4")
    assert "there is no tokenizer in" in printed
