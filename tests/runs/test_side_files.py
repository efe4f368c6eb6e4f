"""Files that only describe a run: passed over, named, made again; and what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import SMALL
from small_training import Collected, small

from lumenspark import pipeline
from lumenspark.cli import run as call
from lumenspark.errors import UserError
from lumenspark.files import temporary_folder
from lumenspark.runs.checkpoint import read_marker
from lumenspark.runs.metrics import MetricsLog, read_metrics
from lumenspark.runs.run import BEGINNING, Run, find_run, list_runs, make_run, tidy_runs
from lumenspark.sweeps.runner import sweep

MEASURED = '{"step": 2, "tokens": 64, "loss": 5.5}\n'
EVENT = '{"step": 2, "event": "rollback", "loss": "nan"}\n'


def longer(copied: Path, text_folder: Path) -> None:
    """The recipe names three steps more than the run has taken."""
    Run(copied).write_recipe(small(text_folder, train__steps=15))


def steps(path: Path) -> list[int]:
    return [line["step"] for line in read_metrics(path).measurements if "loss" in line]


@pytest.mark.parametrize(
    "line",
    [
        b"{no\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b'{"step": -1, "tokens": 1, "loss": 1.0}\n',
        b'{"step": true, "tokens": 1, "loss": 1.0}\n',
        b'{"step": 1, "tokens": 1, "loss": "1.0"}\n',
        b'{"step": 1, "tokens": 1, "loss": ' + b"9" * 400 + b"}\n",
        b'{"step": 1, "loss": 1.0}\n',
        b'{"step": 1, "tokens": 1, "induction/0.0": [1]}\n',
    ],
)
def test_a_line_that_is_no_measurement_is_passed_over_and_named(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(MEASURED.encode() + line + EVENT.encode() + MEASURED.encode())
    metrics = read_metrics(path)
    assert len(metrics.measurements) == 2
    assert len(metrics.events) == 1
    assert metrics.problem == f"1 lines of {path} cannot be read, the first is line 2"


def test_a_loss_that_is_no_number_is_a_measurement(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "tokens": 64, "validation_loss": NaN}\n')
    assert len(read_metrics(path).measurements) == 1


def test_a_line_behind_nul_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(bytes(100) + MEASURED.encode())
    assert steps(path) == [2]


@pytest.mark.parametrize(
    ("size", "kept", "whole"),
    [
        (len(MEASURED) * 2, 2, True),
        (len(MEASURED) * 9, 3, False),
        (len(MEASURED) * 2 + 5, 2, False),
        (0, 0, True),
    ],
)
def test_cutting_keeps_whole_lines_and_adds_nothing(
    tmp_path: Path, size: int, kept: int, whole: bool
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(MEASURED * 3)
    log = MetricsLog(path)
    assert log.cut(size, step=2) is whole
    log.write({"step": 4, "tokens": 128})
    log.close()
    assert path.read_text() == MEASURED * kept + '{"step": 4, "tokens": 128}\n'


def test_cutting_drops_what_is_after_the_checkpoint_in_a_file_that_was_shortened(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    later = MEASURED.replace("2", "8", 1)
    path.write_text(MEASURED + later * 3)
    log = MetricsLog(path)
    assert not log.cut(10_000, step=4)
    log.close()
    assert path.read_text() == MEASURED


def cut_in_half(path: Path) -> None:
    """In the middle of the line about the loss at step 8."""
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b'{"step": 8') + 20])


def one_line_of_noise(path: Path) -> None:
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b"\xff\0" + second[2:], *rest]))


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (Path.unlink, []),
        (cut_in_half, [2, 4, 6]),
        (one_line_of_noise, [2, 6, 8, 10, 12]),
        (lambda path: path.write_bytes(bytes(5000)), []),
    ],
)
def test_a_run_with_damaged_metrics_goes_on_to_its_card(
    copied: Path, text_folder: Path, damage: Callable[[Path], object], kept: list[int]
) -> None:
    longer(copied, text_folder)
    file = copied / "metrics.jsonl"
    damage(file)
    reporter = Collected()
    run = pipeline.resume(str(copied), reporter=reporter)
    assert any(str(file) in each for each in reporter.sentences)
    assert read_marker(run.checkpoint("last")).step == 15
    assert (copied / "README.md").is_file()
    assert steps(file) == [*kept, 14, 15]


@pytest.mark.parametrize("content", ["", "{no", "[]", '{"corpus": 3, "threads": "two"}'])
def test_an_environment_that_is_damaged_is_kept_and_written_again(
    copied: Path, text_folder: Path, content: str
) -> None:
    before = json.loads((copied / "environment.json").read_text())
    longer(copied, text_folder)
    (copied / "environment.json").write_text(content)
    reporter = Collected()
    run = pipeline.resume(str(copied), reporter=reporter)
    assert any("environment.json is damaged" in each for each in reporter.sentences)
    assert (copied / "damaged-environment.json").read_text() == content
    environment = run.environment()
    assert set(environment) == set(before)
    assert environment["tokens_digest"] == before["tokens_digest"]


def test_a_text_that_changed_is_noticed_without_an_environment(
    copied: Path, text_folder: Path, tmp_path: Path
) -> None:
    text = Path(shutil.copytree(text_folder, tmp_path / "text"))
    with (text / "train.jsonl").open("a") as file:
        file.write('\n{"text": "One more document."}')
    Run(copied).write_recipe(small(text, train__steps=15))
    (copied / "environment.json").unlink()
    with pytest.raises(UserError, match="was trained on another version of the text"):
        pipeline.resume(str(copied), reporter=Collected())


def test_ids_that_are_read_in_another_way_than_when_the_run_began_are_noticed(
    copied: Path, text_folder: Path
) -> None:
    """Under the same digest: earlier versions learned byte-order marks, for example."""
    longer(copied, text_folder)
    file = copied / "environment.json"
    environment = json.loads(file.read_text())
    environment["corpus"]["tokens"]["train"] += 2
    file.write_text(json.dumps(environment))
    with pytest.raises(UserError, match="has changed since it began"):
        pipeline.resume(str(copied), reporter=Collected())
    assert read_marker(copied / "checkpoints" / "last").step == 12


def test_evaluations_that_are_damaged_are_put_aside(copied: Path) -> None:
    (copied / "evaluation.json").write_text("{no")
    pipeline.resume(str(copied), reporter=Collected())
    assert (copied / "damaged-evaluation.json").read_text() == "{no"
    assert len(json.loads((copied / "evaluation.json").read_text())["evaluations"]) == 2


# What a kill leaves


def test_a_run_killed_before_its_environment_starts_at_step_0(
    text_folder: Path, own_runs: Path, trained: Path
) -> None:
    """As earlier versions left it: a recipe and an empty folder of checkpoints."""
    recipe = Run(trained).recipe()
    run = make_run(own_runs / "abcdefgh", recipe)
    reporter = Collected()
    pipeline.resume("abcdefgh", reporter=reporter)
    for name in ("last/model.safetensors", "best/model.safetensors"):
        assert (run.checkpoints / name).read_bytes() == (
            trained / "checkpoints" / name
        ).read_bytes()
    assert run.environment()["run"] == "abcdefgh"


def test_a_folder_with_a_recipe_is_not_trained_into(
    text_folder: Path, tmp_path: Path, own_runs: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    Run(project).write_recipe(small(text_folder))
    with pytest.raises(UserError, match=r"holds no checkpoint to resume from: train a new run"):
        pipeline.resume(str(project))
    assert [path.name for path in project.iterdir()] == ["recipe.yaml"]


def test_a_run_that_lost_all_its_checkpoints_keeps_its_metrics(copied: Path) -> None:
    before = (copied / "metrics.jsonl").read_bytes()
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint to resume from"):
        pipeline.resume(str(copied))
    assert (copied / "metrics.jsonl").read_bytes() == before


def test_a_run_folder_appears_whole_or_not_at_all(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(text_folder)
    seen: list[list[str]] = []
    write = Run.write_recipe

    def looked_at(self: Run, recipe: object) -> None:
        seen.append([path.name for path in own_runs.iterdir() if path.name[0] != "."])
        write(self, recipe)  # type: ignore[arg-type]
        seen.append([path.name for path in own_runs.iterdir() if path.name[0] != "."])
        assert list_runs() == []

    monkeypatch.setattr(Run, "write_recipe", looked_at)
    make_run(own_runs / "whole", recipe, {"started_at": "2026-01-01"})
    assert seen == [[], []]
    assert [run.id for run in list_runs()] == ["whole"]


LEFTOVERS = [
    ".beginning-abcd1234/recipe.yaml",
    "RUN/.README.md.abcd1234",
    "RUN/.evaluation.json.abcd1234",
    "RUN/checkpoints/.saving-abcd1234/model.safetensors",
    "RUN/teachers/.beginning-abcd1234/recipe.yaml",
    "RUN/teachers/0/checkpoints/.saving-abcd1234/model.safetensors",
    "sweeps/NAME/.results.jsonl.abcd1234",
    "sweeps/NAME/.beginning-abcd1234/recipe.yaml",
    "sweeps/NAME/trial-001-seed-0/checkpoints/.saving-abcd1234/config.json",
    "sweeps/NAME/trial-001-seed-0/teachers/0/.recipe.yaml.abcd1234",
    "evaluations/gpt2/.evaluation.json.abcd1234",
]
NOT_OURS = [".vim-settings", ".config-abcd1234", "notes/.saving-abcd1234"]


def left_behind(copied: Path) -> list[Path]:
    runs = copied.parent
    paths = [runs / name.replace("RUN", copied.name) for name in [*LEFTOVERS, *NOT_OURS]]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    return [path if path.name.endswith("abcd1234") else path.parent for path in paths]


@pytest.mark.parametrize("begin", ["train", "resume", "sweep", "record"])
def test_every_start_tidies_what_kills_have_left_in_any_run(
    copied: Path, text_folder: Path, begin: str
) -> None:
    left_behind(copied)
    settings = SMALL | {"train.steps": 2, "data": str(text_folder)}
    if begin == "train":
        pipeline.train("lumiere-tiny", reporter=Collected(), **settings)
    elif begin == "resume":
        pipeline.resume(copied.name, reporter=Collected())
    elif begin == "sweep":
        sweep("lumiere-tiny", **settings, vary={"optim.muon_lr": [0.02]}, seeds=1)
    else:
        assert call(["record", "fast", "--data", "no such text"]) == 2
    runs = copied.parent
    for name in LEFTOVERS:
        assert not (runs / name.replace("RUN", copied.name)).exists(), name
    for name in NOT_OURS:
        assert (runs / name).exists(), name


def test_what_a_live_process_makes_is_left_alone(own_runs: Path) -> None:
    own_runs.mkdir()
    with temporary_folder(own_runs, BEGINNING) as folder:
        tidy_runs()
        assert folder.is_dir()


IN_A_SAVE = """
import os, signal, sys
from pathlib import Path
from lumenspark import pipeline
from lumenspark.runs import checkpoint
seal, calls = checkpoint._seal, iter(range(99))
def killed(staged, step, about):
    if next(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    seal(staged, step, about)
checkpoint._seal = killed
pipeline.resume(sys.argv[1])
"""


def test_a_run_killed_while_it_saves_is_tidied_and_goes_on(copied: Path, text_folder: Path) -> None:
    longer(copied, text_folder)
    command = [sys.executable, "-c", IN_A_SAVE, str(copied), "0"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((copied / "checkpoints").glob(".saving-*"))
    run = pipeline.resume(str(copied), reporter=Collected())
    assert read_marker(run.checkpoint("last")).step == 15
    assert not list(copied.rglob(".saving-*"))


# The list of runs


def test_one_damaged_run_is_named_and_the_others_are_listed(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, file, content in (
        ("aaaaaaaa", "metrics.jsonl", b"\xff\n"),
        ("bbbbbbbb", "recipe.yaml", b"{no"),
        ("cccccccc", "evaluation.json", b"{no"),
        ("dddddddd", "checkpoints/best/complete.json", b"{no"),
        ("eeeeeeee", "environment.json", b"\xff"),
    ):
        twin = Path(shutil.copytree(copied, copied.parent / name))
        (twin / file).write_bytes(content)
    (copied.parent / "eeeeeeee" / "recipe.yaml").unlink()
    assert call(["runs"]) == 0
    printed = capsys.readouterr().out
    rows = printed[printed.index("recipe  ") :]
    for name in (copied.name, "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd", "eeeeeeee"):
        assert name in rows
    for file in (
        *("aaaaaaaa/metrics.jsonl", "bbbbbbbb/recipe.yaml", "cccccccc/evaluation.json"),
        *("dddddddd/checkpoints/best/complete.json", "eeeeeeee/recipe.yaml"),
    ):
        assert file in printed


@pytest.mark.parametrize("name", ["corpus[v2]", "[bold]x[/bold]", "[/]", ":smile:", "a\nb\x1b[1m"])
def test_names_in_the_list_are_text(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = Run(copied)
    data = f"somewhere/{name.replace('/', '')}"
    run.write_recipe(replace(run.recipe(), name=name, data=data))
    copied.rename(copied.with_name("[i]run[red]"))
    assert call(["runs"]) == 0
    (row,) = capsys.readouterr().out.splitlines()[1:]
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert row.startswith(f"[i]run[red] {shown} ")
    assert row.count(shown.replace("/", "")) >= 1


def test_a_run_is_found_by_its_folder_without_its_recipe(copied: Path) -> None:
    (copied / "recipe.yaml").unlink()
    assert find_run(str(copied)) == Run(copied)
    assert find_run(copied.name[:4]) == Run(copied)
    with pytest.raises(UserError, match=r"there is no recipe file .*recipe\.yaml"):
        pipeline.resume(copied.name)


def test_no_waiting_for_a_git_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lumenspark.runs import environment

    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nexec sleep 600\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(environment, "WAIT_FOR_GIT", 0.1)
    assert environment.git_commit() is None


class Failing:
    """A tracker whose server has gone."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        raise ConnectionError("no answer")

    def finish(self) -> None:
        raise ConnectionError("no answer either")


def test_a_tracker_that_fails_ends_no_training(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.training.session.open_tracker", lambda *_: Failing())
    reporter = Collected()
    run = pipeline.train(small(text_folder), reporter=reporter)
    assert steps(run.metrics_file) == [2, 4, 6, 8, 10, 12]
    assert sum("receives no more metrics" in each for each in reporter.sentences) == 1


def test_a_sweep_whose_results_were_lost_trains_its_trials_again(
    text_folder: Path, own_runs: Path
) -> None:
    settings = SMALL | {"train.steps": 4, "data": str(text_folder)}
    rates = {"optim.muon_lr": [0.01, 0.02]}
    first = sweep("lumiere-tiny", vary=rates, seeds=1, reporter=Collected(), **settings)
    (folder,) = (own_runs / "sweeps").iterdir()
    (folder / "results.jsonl").unlink()
    (folder / "trial-002-seed-0" / "environment.json").write_text("{no")
    again = sweep("lumiere-tiny", vary=rates, seeds=1, reporter=Collected(), **settings)
    assert [trial.losses for trial in again] == [trial.losses for trial in first]
    assert (folder / "damaged-trial-001-seed-0" / "checkpoints" / "best").is_dir()
