"""A first run as a new user makes it: what it prints and leaves, and the commands it suggests."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import lumenspark

TRAINING = {
    "data": "tales-1mb",
    "train.steps": 300,
    "train.validate_every": 150,
    "train.log_every": 50,
    "inspect.every": 100,
}
"""Half a minute of lumiere-tiny, after which it writes words."""


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that it ran in, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    given = [part for key, value in TRAINING.items() for part in (f"--{key}", str(value))]
    done = lumenspark("train", "lumiere-tiny", *given, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def run_of(first_run: tuple[Path, str]) -> Path:
    """The run directory, from the line that names the card."""
    folder, printed = first_run
    [card] = re.findall(r"^model card: +(.*)$", printed, re.MULTILINE)
    return (folder / card).parent


def suggested(printed: str) -> list[list[str]]:
    """The commands under ``Next:``, as a shell splits them."""
    lines = printed.split("\nNext:\n")[1].splitlines()
    return [shlex.split(line) for line in lines if line.startswith("  lumenspark")]


def words_of_the_corpus() -> set[str]:
    from lumenspark.data.corpora import open_corpus

    return set(re.findall(r"[a-z]+", open_corpus("tales-1mb").text("train")))


@pytest.mark.slow
def test_the_sample_is_text(first_run: tuple[Path, str]) -> None:
    _, printed = first_run
    sample = printed.split("\nloss curves:")[0].rsplit("bits per byte", 1)[1]
    found = re.findall(r"\b[a-z]{2,}\b", sample)
    known = words_of_the_corpus()
    assert len(found) > 30
    assert sum(word in known for word in found) > 0.6 * len(found)
    assert len(set(found)) > 15  # and not one word over and over


@pytest.mark.slow
def test_samples_are_printed_at_validations_and_stand_in_the_card(
    first_run: tuple[Path, str],
) -> None:
    _, printed = first_run
    card = (run_of(first_run) / "README.md").read_text("utf-8")
    for step in (150, 300):
        [line] = re.findall(rf"^step {step} writes: (.*)$", printed, re.MULTILINE)
        assert f"| {step} | {line[:40]}" in card
    assert card.count("Prompt `There was once`, temperature 0.7, seed") == 3


@pytest.mark.slow
def test_the_files_that_it_names_are_there(first_run: tuple[Path, str]) -> None:
    folder, printed = first_run
    names = ("loss curves", "model card", "heads, during training and now")
    for name in names:
        [path] = re.findall(rf"^{name}: +(.*)$", printed, re.MULTILINE)
        assert (folder / path).stat().st_size > 1000


@pytest.mark.slow
def test_the_kept_step_is_marked_in_the_curves(first_run: tuple[Path, str]) -> None:
    curves = (run_of(first_run) / "loss.svg").read_text("utf-8")
    assert "<!-- kept: step 300, loss" in curves  # the text of the legend


@pytest.mark.slow
def test_the_commands_that_it_suggests(first_run: tuple[Path, str]) -> None:
    folder, printed = first_run
    generate, inspect, train = suggested(printed)

    done = lumenspark(*generate[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("There was once")
    assert len(done.stdout.split()) > 5  # no seed is given, so a text may end soon

    done = lumenspark(*inspect[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "page.html").read_text("utf-8")
    assert inspect[2] in page  # the run that it is about
    assert len(page) > 50_000

    assert train[:2] == ["lumenspark", "train"]
    (folder / "your-folder").mkdir()
    for split in ("train", "validation", "test"):
        (folder / "your-folder" / f"{split}.txt").write_text("A line of text.\n\n" * 3000)
    done = lumenspark(*train[1:], "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "whole time" in done.stdout
