"""A run and a model folder that version 0.2.0 wrote on 2026-11-26, before names were changed."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from command_line import lumenspark
from stored_numbers import FILE, write_text

from lumenspark import LumensparkForCausalLM

FOLDERS = Path(__file__).with_name("earlier_format.tar.xz")
LOSS_OF_STEP_20 = 4.522046  # validation, of the same training by that version, without a stop


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``run``, stopped after 13 of 20 steps (with a teacher, an average and what a recorder saw);
    ``lumenspark``, a model with the weights of the stored logits."""
    with tarfile.open(FOLDERS) as archive:
        archive.extractall(tmp_path, filter="data")
    write_text(tmp_path / "text")
    for recipe in (tmp_path / "run").rglob("recipe.yaml"):
        text = recipe.read_text(encoding="utf-8")
        recipe.write_text(text.replace("data: text", f"data: {tmp_path / 'text'}"), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_goes_on_to_the_end_that_it_would_have_had(folders: Path) -> None:
    done = lumenspark("resume", "run")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 13" in done.stdout
    lines = (folders / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [m["validation_loss"] for m in map(json.loads, lines) if "validation_loss" in m]
    assert losses[-1] == pytest.approx(LOSS_OF_STEP_20, abs=1e-3)
    assert lumenspark("card", "run", "--check").returncode == 0


def test_checkpoint_of_a_run_is_evaluated_and_continues_text(folders: Path) -> None:
    assert lumenspark("evaluate", "run", "--split", "validation").returncode == 0
    done = lumenspark("generate", "run", "Bado", "--max-new-tokens", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Bado")


def test_model_folder_gives_its_logits(folders: Path) -> None:
    model = LumensparkForCausalLM.from_pretrained(folders / "lumenspark").eval()
    ids = torch.arange(80).view(2, 40).mul(7) % 96
    with torch.inference_mode():
        found = model(input_ids=ids).logits[..., ::12].flatten().tolist()
    stored = json.loads(FILE.read_text(encoding="utf-8"))["logits"]["content"]
    assert found == pytest.approx(stored, abs=2e-5, rel=0)
