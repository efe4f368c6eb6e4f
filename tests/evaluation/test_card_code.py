"""The code in a model card, run as it stands, by a process that cannot import this package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_stand_in import Hub
from model_hub import ModelHub

from lumenspark.model_card.card import check_card, write_card
from lumenspark.upload import push

FIRST_BLOCK = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
WITHOUT_THIS_PACKAGE = "import sys\nsys.modules['lumenspark'] = None\n"
SHOWN = "\nprint(type(tokenizer).__name__, type(model).__name__, model.config.vocab_size)\n"


def run_code_of(card: str, folder: Path, **environment: str) -> str:
    """What the first block prints in an empty folder; its input stays open and says nothing."""
    code = FIRST_BLOCK.findall(card)[0]
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS")}
    program = [sys.executable, "-I", "-c", WITHOUT_THIS_PACKAGE + code + SHOWN]
    folder.mkdir()
    with subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**kept, "HF_HOME": str(folder / "hub"), **environment},
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 0, said[-2000:]
    assert "y/N" not in said  # transformers' question about remote code
    return said


def test_it_runs_unattended_in_any_folder(copied: Path, tmp_path: Path) -> None:
    card = write_card(copied).read_text(encoding="utf-8")
    assert f'"{copied / "checkpoints" / "best"}"' in card
    said = run_code_of(card, tmp_path / "elsewhere", HF_HUB_OFFLINE="1")
    assert "The film was" in said
    assert re.search(r"TokenizersBackend LumiereForCausalLM \d+\n$", said)
    write_card(copied, "last")
    assert f'"{copied / "checkpoints" / "last"}"' in (copied / "README.md").read_text("utf-8")
    assert check_card(copied) == []


def test_the_card_of_a_moved_run_agrees_and_can_be_written_anew(
    copied: Path, tmp_path: Path
) -> None:
    write_card(copied)
    moved = Path(shutil.move(copied, tmp_path / copied.name))
    assert check_card(moved) == []
    assert f'"{moved / "checkpoints" / "best"}"' in write_card(moved).read_text("utf-8")
    assert check_card(moved) == []


def test_a_card_whose_code_loads_another_folder_does_not_agree(copied: Path) -> None:
    card = write_card(copied)
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace(str(copied), "/elsewhere/23456789"), encoding="utf-8")
    assert "/elsewhere/23456789" in "\n".join(check_card(copied))


def test_the_card_of_a_push_names_the_repository(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with Hub("hf_a_token", owner="someone") as hub:
        push(copied, "someone/tiny", token="hf_a_token", endpoint=hub.endpoint)
    pushed = tmp_path / "pushed"
    pushed.mkdir()
    for name, content in hub.files.items():
        (pushed / name).write_bytes(content)
    card = (pushed / "README.md").read_text(encoding="utf-8")
    assert 'lumenspark.load("someone/tiny")' in card
    assert "lumenspark generate someone/tiny " in card
    with ModelHub("someone/tiny") as models:
        models.commit(pushed, "main")
        said = run_code_of(card, tmp_path / "elsewhere", HF_ENDPOINT=models.endpoint)
    assert "The film was" in said
