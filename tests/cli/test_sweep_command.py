"""lumenspark sweep as its users type it, and what is left of one that is killed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import lumenspark, overrides

from lumenspark.cli import run
from lumenspark.sweeps.trials import Trial, read_trials

Capture = pytest.CaptureFixture[str]
GRID = ("--vary", "optim.muon_lr=0.01,0.04")
DRAWN = ("--vary", "optim.muon_lr=0.005..0.05", "--trials", "2")
WEIGHTS = Path("checkpoints", "best", "model.safetensors")


def command(text: Path, *arguments: str) -> list[str]:
    """A sweep of 30 steps for each training, saved every 6."""
    steps = overrides(train__steps=30, train__save_every=6, train__validate_every=10)
    return ["sweep", "lumiere-tiny", "--data", str(text), *steps, *arguments]


def start(text: Path, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "lumenspark", *command(text, *arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LUMENSPARK_RUNS": str(runs)},
    )


def stop_at(
    process: subprocess.Popen[str], training: str, line: str, number: signal.Signals
) -> tuple[int, str]:
    """Send a signal at a line of a training. Returns the exit code, and what came afterwards."""
    assert process.stdout is not None
    beginnings = [training, line]
    for printed in process.stdout:
        if printed.startswith(beginnings[0]):
            beginnings.pop(0)
        if not beginnings:
            process.send_signal(number)
            break
    rest = process.stdout.read()
    return process.wait(), rest


def only_sweep(runs: Path) -> Path:
    (folder,) = (runs / "sweeps").iterdir()
    return folder


def results(runs: Path) -> list[Trial]:
    return read_trials(only_sweep(runs) / "results.jsonl")[0]


def assert_same_end(one: Path, other: Path) -> None:
    assert only_sweep(one).name == only_sweep(other).name
    for first, second in zip(results(one), results(other), strict=True):
        assert (first.values, first.losses) == (second.values, second.losses)
        for training, twin in zip(first.trainings, second.trainings, strict=True):
            weights = [Path(each.run, WEIGHTS).read_bytes() for each in (training, twin)]
            assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "searched",
    [pytest.param(GRID, id="grid"), pytest.param(DRAWN, id="drawn", marks=pytest.mark.slow)],
)
def test_killed_and_called_again_it_ends_as_if_never_killed(
    searched: tuple[str, ...], text_folder: Path, tmp_path: Path, own_runs: Path
) -> None:
    arguments = (*searched, "--seeds", "2")
    killed = tmp_path / "killed"
    process = start(text_folder, killed, *arguments)
    code, _ = stop_at(process, "trial 2 of 2, seed 1", "  step 10 ", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert [trial.number for trial in results(killed)] == [1]

    environment = os.environ | {"LUMENSPARK_RUNS": str(killed)}
    again = lumenspark(*command(text_folder, *arguments), env=environment)
    assert again.returncode == 0, again.stderr
    assert "1 of them finished" in again.stdout
    assert "trial 1 of 2" not in again.stdout
    steps = re.findall(r"resuming from step (\d+)", again.stdout)
    assert steps[0] == "30", "the first seed of the second trial was trained to its end"
    assert 6 <= int(steps[1]) < 30
    assert len(steps) == 2

    assert run(command(text_folder, *arguments)) == 0
    assert_same_end(killed, own_runs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_first(
    number: signal.Signals, text_folder: Path, tmp_path: Path
) -> None:
    process = start(text_folder, tmp_path, *GRID, "--seeds", "1")
    code, rest = stop_at(process, "trial 1 of 2, seed 0", "  step 10 ", number)
    assert code == 128 + number
    assert rest.endswith("stopped and saved: the same command resumes\n")
    (training,) = only_sweep(tmp_path).glob("trial-*")
    marker = training / "checkpoints" / "last" / "complete.json"
    assert json.loads(marker.read_text())["step"] > 6


def test_asked_to_stop_in_a_last_step_it_begins_no_other_training(
    text_folder: Path, tmp_path: Path
) -> None:
    process = start(text_folder, tmp_path, *GRID, "--seeds", "1")
    line = "  step 30  validation loss"
    code, _ = stop_at(process, "trial 1 of 2, seed 0", line, signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert [path.name for path in only_sweep(tmp_path).glob("trial-*")] == ["trial-001-seed-0"]


def test_the_table_and_the_command_that_trains_the_best(
    text_folder: Path, own_runs: Path, call: Callable[..., str]
) -> None:
    arguments = command(text_folder, *GRID, "--vary=train.batch-size=2,4", "--seeds", "2")
    lines = call(*arguments).splitlines()
    (head,) = (number for number, line in enumerate(lines) if line.rstrip().endswith(" seconds"))
    assert lines[head - 1].split() == ["optim.", "train."]
    columns = "trial muon_lr batch_size val loss spread n steps tokens seconds"
    assert lines[head].split() == columns.split()
    rows = [line.split() for line in lines[head + 1 : head + 5]]
    by_number = {trial.number: trial for trial in results(own_runs)}
    shown = [float(row[3]) for row in rows]
    assert shown == sorted(shown)
    for number, rate, batch, loss, spread, seeds, steps, tokens, _ in rows:
        trial = by_number[int(number)]
        assert (float(rate), int(batch)) == tuple(trial.values.values())
        assert (loss, spread) == (f"{trial.mean:.4f}", f"{trial.spread:.4f}")
        assert (seeds, steps) == ("2", "30")
        assert int(tokens.replace(",", "")) == 30 * 32 * int(batch)

    best = by_number[int(rows[0][0])]
    program, *words = shlex.split(lines[-1].removeprefix("Best: "))
    assert (program, words[:2]) == ("lumenspark", ["train", "lumiere-tiny"])
    call(*words)
    (trained,) = (path for path in own_runs.iterdir() if (path / "recipe.yaml").is_file())
    assert (trained / WEIGHTS).read_bytes() == Path(best.trainings[0].run, WEIGHTS).read_bytes()
    listed = call("runs")
    assert trained.name in listed
    assert "trial-" not in listed


def test_nothing_but_divergence(
    text_folder: Path, own_runs: Path, call: Callable[..., str]
) -> None:
    rates = ("--vary", "optim.muon_lr=1e36", "--optim.adamw_lr", "1e36", "--seeds", "2")
    printed = call(*command(text_folder, *rates))
    assert "diverged" in printed
    assert printed.endswith("every trial diverged: use lower learning rates\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a key to vary"),
        (("--vary", "optim.muon_lr"), "write KEY=A,B,C or KEY=LOW..HIGH"),
        (("--vary", "=0.1,0.2"), "write KEY=A,B,C or KEY=LOW..HIGH"),
        ((*GRID, "--vary", "optim.muon-lr=1"), "--vary optim.muon_lr is given twice"),
        (("--vary", "optim.muon_lr=a,b"), "optim.muon_lr = 'a' is wrong"),
        (("--vary", "optim.moun_lr=1"), "did you mean optim.muon_lr?"),
        (("--vary", "train.steps=1,2", "--budget", "1m"), "omit one"),
        ((*GRID, "--budget", "5"), "a time of 5 what: write 5s, 5m or 5h"),
        (("--vary", "budget=5,10"), "a time of 5 what: write 5s, 5m or 5h"),
        (("--vary", "optim.muon_lr=0.1..0.2"), "give the number of trials"),
    ],
)
def test_what_cannot_work(
    arguments: tuple[str, ...], message: str, text_folder: Path, own_runs: Path, capsys: Capture
) -> None:
    assert run(command(text_folder, *arguments)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not own_runs.exists()


def test_a_number_that_is_none(text_folder: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        run(command(text_folder, *GRID, "--seeds", "few"))
    assert caught.value.code == 2
    assert "--seeds" in capsys.readouterr().err


def test_help_says_what_a_sweep_takes(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        run(["sweep", "--help"])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("--vary", "--seeds", "--trials", "--optim.muon-lr"))
