"""What all tests share: real text in small amounts, and folders of their own."""

import json
import os
import pydoc_data.topics
import shutil
from pathlib import Path

import pytest
from command_line import overrides

# The models are tiny: a second thread gains nothing, and on a busy machine it costs a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is read from or written to the user's caches, and nothing reaches the network."""
    os.environ["LUMENSPARK_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["LUMENSPARK_RUNS"] = str(tmp_path_factory.mktemp("runs"))
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of Python's reference manual as JSON lines, with named splits."""
    folder = tmp_path_factory.mktemp("text")
    pages = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    for name, part in (("train", pages[:24]), ("validation", pages[24:30]), ("test", pages[30:36])):
        lines = (json.dumps({"text": page}) for page in part)
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def trained(text_folder: Path) -> Path:
    """A small run from beginning to end, by the command line's own code; read it, do not write."""
    from lumenspark.cli import run

    before = set(Path(os.environ["LUMENSPARK_RUNS"]).iterdir())
    assert run(["train", "lumiere-tiny", "--data", str(text_folder), *overrides()]) == 0
    (path,) = set(Path(os.environ["LUMENSPARK_RUNS"]).iterdir()) - before
    return path


@pytest.fixture
def own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder of the test's own, which need not exist yet."""
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run in a runs folder of its own, to be changed."""
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "runs"))
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))
