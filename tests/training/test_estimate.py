"""The estimate of a dry run: within the budget, and from little work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import overrides
from small_training import Collected, small

from lumenspark.cli import run
from lumenspark.recipe import parse_duration
from lumenspark.training import estimate as module
from lumenspark.training.estimate import estimate, quick_costs
from lumenspark.training.setup import set_up
from lumenspark.training.trainer import Trainer


@pytest.mark.parametrize("teachers", [0, 3])
def test_it_stays_inside_the_budget(text_folder: Path, teachers: int) -> None:
    recipe = small(text_folder, budget="60s", distill__teachers=teachers)
    planned = estimate(recipe, Collected())
    steps = planned.recipe.train.steps + teachers * planned.recipe.distill.steps
    assert steps > 10
    assert steps * planned.seconds_per_step < planned.seconds <= parse_duration("60s")


def test_a_dry_run_shows_teachers_apart(
    text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--budget", "60s", "--distill.teachers", "3", "--dry-run"]
    assert run(["train", "lumiere-tiny", "--data", str(text_folder), *overrides(), *more]) == 0
    rows = dict(line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines()[-9:])
    assert rows["teachers"].strip().startswith("3, each ")
    assert "sampling" in rows["teachers"]
    assert "of a budget of 60s" in rows["whole time"]


def test_a_dry_run_compiles_nothing(
    text_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", None)
    more = ["--train.compile", "on", "--dry-run"]
    assert run(["train", "lumiere-tiny", "--data", str(text_folder), *overrides(), *more]) == 0
    assert "steps are timed without torch.compile" in capsys.readouterr().out


def test_a_large_model_is_run_on_a_part_of_a_window(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"model__max_position_embeddings": 256, "train__batch_size": 8}
    setup = set_up(small(text_folder, **changes), Collected())
    trainer, seen = Trainer(setup, Collected()), []

    def recorded(windows: torch.Tensor, *samples: Any) -> torch.Tensor:
        seen.append(windows[:, 1:].numel())
        return setup.loss(windows, *samples)

    trainer.loss = recorded
    quick_costs(trainer)
    assert set(seen) == {8 * 256}
    seen.clear()
    monkeypatch.setitem(module.WORK, "cpu", 1e5)
    quick_costs(trainer)
    assert set(seen) == {64}
