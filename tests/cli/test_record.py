"""lumenspark record, in a checkout of its own and as an installed package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import SMALL

from lumenspark.cli import run
from lumenspark.records.page import records_page
from lumenspark.records.rerun import cold_folders
from lumenspark.records.tracks import TRACKS

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]


def git(folder: Path, *arguments: str) -> str:
    person = ["-c", "user.name=A tester", "-c", "user.email=tester@example.org"]
    command = ["git", "-C", str(folder), *person, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, text_folder: Path) -> Path:
    """A repository with this package, in which the tracks' presets train for a second."""
    root = tmp_path / "checkout"
    package = root / "src" / "lumenspark"
    shutil.copytree(
        ROOT / "src" / "lumenspark", package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "records").mkdir()
    (root / "docs").mkdir()
    (root / "pyproject.toml").touch()
    (root / ".gitignore").write_text("__pycache__/\n")
    preset = yaml.safe_load((package / "recipes" / "lumiere-tiny.yaml").read_text("utf-8"))
    preset["train"] |= {name.removeprefix("train."): value for name, value in SMALL.items()}
    for name in {track.recipe for track in TRACKS.values()}:
        text = yaml.safe_dump(preset | {"name": name, "data": str(text_folder)})
        (package / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "everything")
    return root


def record(source: Path, *arguments: str) -> Done:
    """The command line of the package that lies in the folder ``source``."""
    return subprocess.run(
        [sys.executable, "-m", "lumenspark", "record", *arguments],
        env=os.environ
        | {"PYTHONPATH": str(source), "LUMENSPARK_RUNS": str(source.parent / "runs")},
        cwd=source.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(done: Done) -> str:
    """The one sentence of a user's error."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("lumenspark: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--write"], "give both or neither"),
        (["--write", "--change", " "], "give both or neither"),
        (["--change", "wider"], "give both or neither"),
    ],
)
def test_options_that_cannot_be(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["record", "speed", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_track_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["record", "slow"])
    assert caught.value.code == 2
    assert "speed" in capsys.readouterr().err


def test_before_the_first_record_there_is_nothing_to_rerun(checkout: Path) -> None:
    assert "track fast has no record to rerun" in refusal(record(checkout / "src", "fast"))


def test_a_record_needs_its_code_committed(checkout: Path) -> None:
    (checkout / "src" / "lumenspark" / "recipes" / "new.yaml").write_text("name: new\n")
    done = record(checkout / "src", "best", "--write", "--change", "the first")
    assert "has uncommitted changes" in refusal(done)


def test_a_text_without_a_test_split(checkout: Path, text_folder: Path, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / "text").mkdir(exist_ok=True)
        shutil.copy(text_folder / f"{name}.jsonl", tmp_path / "text")
    arguments = ["--data", str(tmp_path / "text"), "--write", "--change", "the first"]
    assert "has no test split" in refusal(record(checkout / "src", "best", *arguments))


def test_an_installed_package_has_the_records_and_writes_none(
    checkout: Path, tmp_path: Path
) -> None:
    """As pyproject.toml lays out a wheel: the records lie inside the package."""
    site = tmp_path / "site"
    shutil.copytree(checkout / "src", site)
    rows = shutil.copytree(checkout / "records", site / "lumenspark" / "records" / "rows")
    done = record(site, "best", "--write", "--change", "wider")
    assert "of a git checkout" in refusal(done)
    damaged = rows / "best" / "2026-01-01-first" / "record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{no")
    assert f"{damaged} is damaged" in refusal(record(site, "best"))


@pytest.mark.slow
def test_a_record_is_made_and_rerun(checkout: Path, text_folder: Path) -> None:
    data = ["--data", str(text_folder)]
    source = checkout / "src"
    made = record(source, "best", *data, "--seeds", "2", "--write", "--change", "The first one")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "training a tokenizer" in made.stdout  # though other tests have filled the cache
    assert "holds: whole command at most 60 min 00 s: " in made.stdout

    (folder,) = (checkout / "records" / "best").iterdir()
    assert folder.name.endswith("-the-first-one")
    row = json.loads((folder / "record.json").read_text("utf-8"))
    assert row["commit"] == git(checkout, "rev-parse", "HEAD")
    assert row["seeds"] == [0, 1]
    runs = {}
    for path in (checkout / "runs").iterdir():
        entries = json.loads((path / "evaluation.json").read_text("utf-8"))["evaluations"]
        seed = yaml.safe_load((path / "recipe.yaml").read_text("utf-8"))["seed"]
        runs[seed] = {entry["protocol"]: entry for entry in entries}
    assert row["figures"]["test_loss"] == [runs[seed]["card"]["loss"] for seed in (0, 1)]
    assert row["figures"]["bits_per_byte"] == [
        runs[seed]["strided"]["bits_per_byte"] for seed in (0, 1)
    ]
    times = zip(row["figures"]["seconds_to_checkpoint"], row["figures"]["seconds"], strict=True)
    assert all(0 < saved < ended for saved, ended in times)
    page = (checkout / "docs" / "records.md").read_text("utf-8")
    assert page == records_page(checkout / "records")
    assert "The first one" in page

    again = record(source, "best", *data)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "the recorded mean plus tolerance" in again.stdout
    assert len(list((checkout / "records" / "best").iterdir())) == 1
    repeated = record(source, "best", *data, "--write", "--change", "The first  one")
    assert "a record with the change 'The first one' exists already" in refusal(repeated)

    row["figures"]["test_loss"] = [1.0, 1.1]
    (folder / "record.json").write_text(json.dumps(row), encoding="utf-8")
    worse = record(source, "best", *data)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "does not hold: test loss at most " in worse.stdout


@pytest.mark.slow
def test_what_does_not_hold_is_not_written(checkout: Path, text_folder: Path) -> None:
    arguments = ["--data", str(text_folder), "--write", "--change", "the first"]
    done = record(checkout / "src", "fast", *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "does not hold: test loss (card) at most 4.3471: " in done.stdout
    assert "holds: time to the checkpoint at most 10 min 00 s: " in done.stdout
    assert not list((checkout / "records").iterdir())
    assert not (checkout / "docs" / "records.md").exists()


@pytest.mark.slow
def test_speed_is_recorded_and_rerun(checkout: Path, text_folder: Path) -> None:
    data = ["--data", str(text_folder)]
    source = checkout / "src"
    made = record(source, "speed", *data, "--write", "--change", "the first")
    assert made.returncode == 0, made.stdout + made.stderr
    (folder,) = (checkout / "records" / "speed").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"record.json", "recipe.yaml", "environment.json"}
    row = json.loads((folder / "record.json").read_text("utf-8"))
    assert row["command"] == f"lumenspark record speed --data {text_folder.name}"
    assert row["figures"]["tokens_per_second"][0] > 0

    row["figures"]["mfu"] = [100.0]  # which nothing reaches
    (folder / "record.json").write_text(json.dumps(row), encoding="utf-8")
    slower = record(source, "speed", *data)
    assert slower.returncode == 1, slower.stdout + slower.stderr
    assert "does not hold: MFU at least 8500.0%" in slower.stdout


@pytest.mark.slow
def test_nothing_compiled_is_found_again(tmp_path: Path) -> None:
    """torch keeps precompiled headers in another place than the rest of what it compiles."""
    program = "from torch._inductor import codecache as c; print(c._HEADER_DIR, c.cache_dir())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | cold_folders(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(place).is_relative_to(tmp_path) for place in done.stdout.split())
