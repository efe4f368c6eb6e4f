"""A run that is killed and resumed ends with the bits of one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lumenspark, overrides

TIMINGS = {"seconds", "tokens_per_second"}
HARD = {
    "train__steps": 40,
    "train__batch_size": 4,
    "train__gradient_accumulation_steps": 2,
    "train__save_every": 6,
    "train__validate_every": 5,
    "train__ema_decay": 0.9,
    "model__dropout": 0.2,
}
"""Everything that could make two runs differ. A step takes eight windows of 32 tokens."""


def start(text: Path, runs: Path, **more: object) -> subprocess.Popen[str]:
    arguments = ["train", "lumiere-tiny", "--data", str(text), *overrides(**(HARD | more))]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "lumenspark", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LUMENSPARK_RUNS": str(runs)},
    )


def stop_at(process: subprocess.Popen[str], beginning: str, number: signal.Signals) -> int:
    """Send a signal when the run prints a line that begins so; returns the exit code."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            process.send_signal(number)
            break
    process.stdout.read()
    return process.wait()


def only_run(runs: Path) -> Path:
    (run,) = (path for path in runs.iterdir() if (path / "recipe.yaml").is_file())
    return run


def metrics(run: Path) -> list[dict[str, object]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: line[key] for key in line if key not in TIMINGS} for line in lines]


def assert_same_end(one: Path, other: Path) -> None:
    for name in ("last/model.safetensors", "last/trainer.safetensors", "best/model.safetensors"):
        paths = [run / "checkpoints" / name for run in (one, other)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name
    assert metrics(one) == metrics(other)
    figures = [json.loads((run / "evaluation.json").read_text()) for run in (one, other)]
    losses = [[entry["loss"] for entry in each["evaluations"]] for each in figures]
    assert losses[0] == losses[1]


def resume(runs: Path, name: str = "latest") -> str:
    done = lumenspark("resume", name, env=os.environ | {"LUMENSPARK_RUNS": str(runs)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def text(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little enough text that 40 steps go over it more than twice."""
    folder = tmp_path_factory.mktemp("short")
    for file in text_folder.iterdir():
        lines = sorted(file.read_text(encoding="utf-8").splitlines(), key=len)
        (folder / file.name).write_text("\n".join(lines[:12]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("uninterrupted")
    process = start(text, runs)
    assert process.stdout is not None
    process.stdout.read()
    assert process.wait() == 0
    run = only_run(runs)
    tokens = json.loads((run / "environment.json").read_text())["corpus"]["tokens"]["train"]
    assert tokens // 32 < 40 * 8 / 2, "the run goes over the text more than twice"
    return run


def test_killed_twice_and_resumed(text: Path, tmp_path: Path, uninterrupted: Path) -> None:
    assert stop_at(start(text, tmp_path), "step 15 ", signal.SIGKILL) == -signal.SIGKILL
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "lumenspark", "resume", "latest"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LUMENSPARK_RUNS": str(tmp_path)},
    )
    assert stop_at(process, "step 30 ", signal.SIGKILL) == -signal.SIGKILL
    resume(tmp_path)
    assert_same_end(only_run(tmp_path), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_first(
    text: Path, tmp_path: Path, uninterrupted: Path, number: signal.Signals
) -> None:
    code = stop_at(start(text, tmp_path), "step 10 ", number)
    assert code == 128 + number
    marker = only_run(tmp_path) / "checkpoints" / "last" / "complete.json"
    stopped_at = json.loads(marker.read_text())["step"]
    assert stopped_at > 6  # later than the last checkpoint by schedule before step 10
    assert f"resuming from step {stopped_at}\n" in resume(tmp_path)
    assert_same_end(only_run(tmp_path), uninterrupted)


def test_a_run_that_is_complete_only_evaluates_again(
    uninterrupted: Path,
) -> None:
    before = (uninterrupted / "checkpoints" / "last" / "model.safetensors").read_bytes()
    resume(uninterrupted.parent, uninterrupted.name)
    assert (uninterrupted / "checkpoints" / "last" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_killed_and_resumed_with_compile(text: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "whole", tmp_path / "killed"]
    whole = start(text, runs[0], train__compile="on")
    assert whole.stdout is not None
    whole.stdout.read()
    assert whole.wait() == 0
    killed = start(text, runs[1], train__compile="on")
    assert stop_at(killed, "step 15 ", signal.SIGKILL) == -signal.SIGKILL
    resume(runs[1])
    assert_same_end(only_run(runs[0]), only_run(runs[1]))


def test_an_altered_checkpoint_is_named_and_the_one_before_used(
    text: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    stop_at(start(text, tmp_path), "step 15 ", signal.SIGKILL)
    run = only_run(tmp_path)
    weights = run / "checkpoints" / "last" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    printed = resume(tmp_path)
    assert "model.safetensors was truncated or altered" in printed
    assert_same_end(run, uninterrupted)


def test_a_changed_text_is_not_resumed_on(text: Path, tmp_path: Path) -> None:
    changing = Path(shutil.copytree(text, tmp_path / "text"))
    stop_at(start(changing, tmp_path / "runs"), "step 5 ", signal.SIGKILL)
    with (changing / "train.jsonl").open("a") as file:
        file.write('\n{"text": "One more document."}')
    done = lumenspark(
        "resume", "latest", env=os.environ | {"LUMENSPARK_RUNS": str(tmp_path / "runs")}
    )
    assert done.returncode == 2
    assert "has changed since it began" in done.stderr
