"""A disk that is full at any moment: a sentence that names the file, and a run that goes on."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import SMALL
from small_training import Collected, small

from lumenspark import files, pipeline
from lumenspark.errors import UserError
from lumenspark.model_card.card import check_card
from lumenspark.runs.checkpoint import read_marker, verify_checkpoint
from lumenspark.runs.metrics import MetricsLog, read_metrics
from lumenspark.runs.run import Run, list_runs
from lumenspark.sweeps.runner import sweep
from lumenspark.training.session import Session


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Inside, no file grows beyond ``size`` bytes: a write then fails, or writes a part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1, "tokens": 1})
    before = path.read_bytes()
    with room_for(len(before) + 10), pytest.raises(OSError, match="too large") as caught:
        log.write({"step": 2, "tokens": 2})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    log.write({"step": 2, "tokens": 2})
    log.close()
    assert [line["step"] for line in read_metrics(path).lines] == [1, 2]


@pytest.fixture
def full_at_step_8(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Once, when the line about step 8 is added to metrics.jsonl."""
    log, times = Session.log_step, [1]

    def full(self: Session, lr: float) -> None:
        if self.state.step == 8 and times:
            times.clear()
            with room_for(self.run.metrics_file.stat().st_size + 9):
                log(self, lr)
        log(self, lr)

    monkeypatch.setattr(Session, "log_step", full)
    yield
    assert not times


@pytest.mark.usefixtures("full_at_step_8")
def test_metrics_that_cannot_be_added_to(text_folder: Path, own_runs: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: .*free some space .*`lumenspark resume "):
        pipeline.train(small(text_folder), reporter=Collected())
    (run,) = list_runs()
    assert verify_checkpoint(run.checkpoint("last")) is None
    pipeline.resume(run.id, reporter=Collected())
    assert read_marker(run.checkpoint("last")).step == 12
    assert [m["step"] for m in run.metrics() if "loss" in m] == [2, 4, 6, 8, 10, 12]
    assert run.metrics_problem() is None


@pytest.mark.usefixtures("full_at_step_8")
def test_a_sweep_goes_on_by_the_same_command(text_folder: Path, own_runs: Path) -> None:
    settings = SMALL | {"data": str(text_folder)}
    rates = {"optim.muon_lr": [0.02]}
    with pytest.raises(UserError, match=r"metrics\.jsonl: .* continue with `the same command`"):
        sweep("lumiere-tiny", vary=rates, seeds=1, reporter=Collected(), **settings)
    (trial,) = sweep("lumiere-tiny", vary=rates, seeds=1, reporter=Collected(), **settings)
    assert trial.trainings[0].steps == 12


@pytest.mark.parametrize(
    "name", ["loss.svg", "evaluation.json", "README.md", "inspect.html", "failed-batch.json"]
)
def test_a_file_at_the_end_that_cannot_be_written(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = files._replace

    def full(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(files, "_replace", full)
    recipe = small(text_folder, inspect__every=6)
    if name == "failed-batch.json":
        recipe = small(text_folder, optim__adamw_lr=1e36, optim__muon_lr=1e36)
    with pytest.raises(UserError, match=rf"{name}: No space left .*`lumenspark resume "):
        pipeline.train(recipe, reporter=Collected())
    if name == "failed-batch.json":
        return
    monkeypatch.setattr(files, "_replace", replace)
    (run,) = list_runs()
    pipeline.resume(run.id, reporter=Collected())
    assert check_card(run.path) == []
    assert (run.path / name).is_file()


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json"])
def test_a_run_that_cannot_be_begun_leaves_nothing(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = files._replace

    def full(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(files, "_replace", full)
    with pytest.raises(UserError, match=r"cannot write the run's folder .*: No space left"):
        pipeline.train(small(text_folder), reporter=Collected())
    assert list(own_runs.iterdir()) == []


def test_a_checkpoint_that_does_not_fit(copied: Path, text_folder: Path) -> None:
    run = Run(copied)
    run.write_recipe(small(text_folder, train__steps=15))
    with room_for(100_000), pytest.raises(UserError, match="could not save the checkpoint"):
        pipeline.resume(run.id, reporter=Collected())
    assert not list(run.checkpoints.glob(".*"))
    assert read_marker(run.checkpoint("last")).step == 12
    pipeline.resume(run.id, reporter=Collected())
    assert read_marker(run.checkpoint("last")).step == 15
