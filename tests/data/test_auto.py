"""``data: auto``: WikiText-2 from a stand-in of the hub or from a cache, else the embedded text."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import overrides
from model_hub import ModelHub

from lumenspark.cli import run as command
from lumenspark.data import auto
from lumenspark.data.corpora import AUTO, EMBEDDED, open_corpus
from lumenspark.data.hub_datasets import (
    WIKITEXT,
    WIKITEXT_2,
    WIKITEXT_REVISION,
    open_wikitext_2,
)
from lumenspark.errors import UserError
from lumenspark.runs.run import Run

CARD = f"""---
configs:
- config_name: {WIKITEXT_2}
  data_files:
  - {{split: train, path: {WIKITEXT_2}/train-*}}
  - {{split: validation, path: {WIKITEXT_2}/validation-*}}
  - {{split: test, path: {WIKITEXT_2}/test-*}}
---
"""


def use_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)


def write_wikitext(folder: Path) -> Path:
    """A small data set with the layout, the names and the card of WikiText-2."""
    (folder / WIKITEXT_2).mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for split, count in {"train": 60, "validation": 12, "test": 12}.items():
        articles = (
            ["", f" = Tree {i} = \n", "", f" Tree {i} of the {split} split is {i + 3} m high .\n"]
            for i in range(count)
        )
        rows = [row for article in articles for row in article]
        pq.write_table(
            pa.table({"text": rows}), folder / WIKITEXT_2 / f"{split}-00000-of-00001.parquet"
        )
    return folder


@pytest.fixture(autouse=True)
def own_hub_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with ModelHub(WIKITEXT, "datasets") as hub:
        use_hub(hub.endpoint, monkeypatch)
        commit = hub.commit(write_wikitext(tmp_path / "published"))
        hub.commits[WIKITEXT_REVISION] = hub.commits.pop(commit)
        yield hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub at an address where nothing listens."""
    use_hub("http://127.0.0.1:9", monkeypatch)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE, as both libraries read it when they are imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def note_of_embedded() -> str:
    """Open ``auto``, which must be the embedded corpus; its note."""
    corpus = open_corpus(AUTO)
    assert corpus.name == open_corpus(EMBEDDED).name
    assert str(corpus.note).startswith(f"data: auto is {corpus.name}, since ")
    return str(corpus.note)


def check_wikitext(where: str) -> None:
    corpus = open_corpus(AUTO)
    assert (corpus.name, corpus.revision) == ("wikitext-2", WIKITEXT_REVISION)
    assert corpus.note == f"data: auto is wikitext-2, {where}"
    assert corpus.digest() == open_wikitext_2().digest()
    assert " Tree 5 of the validation split is 8 m high .\n" in corpus.text("validation")
    assert sum(piece.starts for piece in corpus.pieces("train")) == 60


@pytest.mark.usefixtures("hub")
def test_it_is_wikitext_2_where_the_hub_answers() -> None:
    check_wikitext("from the hub")


@pytest.mark.usefixtures("no_network")
def test_without_network_it_is_the_embedded_corpus() -> None:
    note = note_of_embedded()
    assert "wikitext-2 is not in the local cache and the hub cannot be reached" in note


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never sends a byte
        use_hub(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        note = note_of_embedded()
    assert "wikitext-2 is not in the local cache and the hub " in note
    # Whichever limit comes first.
    assert "did not answer within 0.5 s" in note or "cannot be reached" in note


def test_a_name_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    resolved = Event()
    monkeypatch.setattr(auto, "PATIENCE", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved.wait(30))
    use_hub("http://hub.invalid", monkeypatch)
    try:
        assert "the hub did not answer within 0.5 s" in note_of_embedded()
    finally:
        resolved.set()


def test_offline_nothing_is_asked(hub: ModelHub, offline: None) -> None:
    assert "wikitext-2 is not in the local cache and HF_HUB_OFFLINE is set" in note_of_embedded()
    assert hub.asked == []


def test_a_copy_in_the_cache_needs_no_request(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_corpus(AUTO)
    hub.asked.clear()
    check_wikitext("from the local cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    check_wikitext("from the local cache")
    assert open_corpus("wikitext-2").text("test") == open_corpus(AUTO).text("test")
    assert hub.asked == []


def downloaded(tmp_path: Path) -> Path:
    """What ``hf download`` leaves in the hub cache."""
    repository = tmp_path / "hub-cache" / "datasets--Salesforce--wikitext"
    return write_wikitext(repository / "snapshots" / WIKITEXT_REVISION)


@pytest.mark.usefixtures("offline")
def test_files_in_the_hub_cache_are_enough(tmp_path: Path) -> None:
    downloaded(tmp_path)
    check_wikitext("from the local cache")


@pytest.mark.usefixtures("offline")
def test_half_a_download_is_not_taken(tmp_path: Path) -> None:
    folder = downloaded(tmp_path) / WIKITEXT_2
    part = folder / "train-00000-of-00001.parquet"
    part.rename(folder / "train-00000-of-00002.parquet")
    note_of_embedded()
    (folder / "train-00000-of-00002.parquet").unlink()
    note_of_embedded()
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 damaged")
    note_of_embedded()


def test_another_commit_in_the_cache_is_not_taken(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "a" * 40
    hub.commits[other] = hub.commits[WIKITEXT_REVISION]
    assert open_wikitext_2(revision=other).text("test")
    hub.commits[WIKITEXT_REVISION] = {"README.md": b"no text"}  # `datasets` takes the other one
    with pytest.raises(UserError, match=rf"at revision {WIKITEXT_REVISION}, only at another one"):
        open_wikitext_2().splits()
    assert "the download of wikitext-2 failed: " in note_of_embedded()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"is not in the cache, and HF_HUB_OFFLINE is set"):
        open_wikitext_2().splits()


def test_a_download_that_fails_is_said(hub: ModelHub) -> None:
    del hub.commits[WIKITEXT_REVISION][f"{WIKITEXT_2}/validation-00000-of-00001.parquet"]
    assert "the download of wikitext-2 failed: " in note_of_embedded()


def test_a_hub_without_the_text_is_said(hub: ModelHub) -> None:
    hub.commits.clear()
    assert "the hub does not serve it (" in note_of_embedded()


def test_an_answer_that_is_not_the_hubs_is_said(hub: ModelHub) -> None:
    hub.about, hub.files = "/nothing", "/api/"  # a login page in the place of every answer
    hub.commits["datasets"] = {f"{WIKITEXT}/revision/{WIKITEXT_REVISION}": b"<html>Log in</html>"}
    assert "the hub's answer cannot be read (" in note_of_embedded()


def test_a_file_of_that_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / AUTO).mkdir()
    (tmp_path / AUTO / "train.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert open_corpus(AUTO).text("train") == "mine"


def test_options_of_a_hub_set_need_its_name() -> None:
    for options in ({"revision": "a" * 40}, {"config": "wikitext-103-raw-v1"}):
        with pytest.raises(UserError, match="omit revision and config, or name the data"):
            open_corpus(AUTO, **options)


def train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(folder))
    assert command(["train", "lumiere-tiny", "--data", AUTO, *overrides()]) == 0
    (path,) = folder.iterdir()
    return Run(path)


def named_data(run: Run) -> tuple[str, str | None]:
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text())
    return recipe["data"], recipe["corpus"]["revision"]


def test_a_run_names_the_text_and_a_resume_reads_it_again(
    hub: ModelHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(tmp_path / "runs", monkeypatch)
    assert named_data(run) == ("wikitext-2", WIKITEXT_REVISION)
    assert "data: auto is wikitext-2, from the hub" in capsys.readouterr().out
    use_hub("http://127.0.0.1:9", monkeypatch)  # no network any more
    shutil.rmtree(run.checkpoint("best"))
    assert command(["resume", run.id]) == 0
    assert command(["evaluate", run.id]) == 0
    assert "auto" not in capsys.readouterr().err


def test_a_run_on_the_embedded_corpus_keeps_it(
    hub: ModelHub,
    tmp_path: Path,
    text_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lumenspark.data.corpora.EMBEDDED", str(text_folder))  # a smaller one
    available = hub.commits.copy()
    hub.commits.clear()
    run = train(tmp_path / "runs", monkeypatch)
    assert named_data(run) == (str(text_folder), None)
    said = capsys.readouterr().out
    assert f"data: auto is {text_folder}, since " in said.replace("\n", " ")
    hub.commits.update(available)
    hub.asked.clear()
    assert command(["resume", run.id]) == 0
    assert hub.asked == []


@pytest.mark.usefixtures("hub")
def test_commands_say_which_text_it_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["prepare", "lumiere-tiny", "--data", AUTO]) == 0
    assert "data: auto is wikitext-2, from the hub\n" in capsys.readouterr().out
    assert command(["evaluate", str(trained), "--data", AUTO, "--json"]) == 0
    assert "data: auto is wikitext-2, from the local cache\n" in capsys.readouterr().err
    assert command(["train", "lumiere-tiny", "--data", AUTO, *overrides(), "--dry-run"]) == 0
    assert "data: auto is wikitext-2, from the local cache" in capsys.readouterr().out


@pytest.mark.usefixtures("hub")
def test_all_trials_of_a_sweep_read_one_text(own_runs: Path) -> None:
    small = overrides(train__save_every=12, train__validate_every=12)
    varied = ["--vary", "optim.warmup=0.0,0.1", "--seeds", "1"]
    assert command(["sweep", "lumiere-tiny", "--data", AUTO, *small, *varied]) == 0
    (settings,) = own_runs.rglob("sweep.json")
    assert json.loads(settings.read_text())["recipe"]["data"] == "wikitext-2"
    recipes = [yaml.safe_load(path.read_text()) for path in own_runs.rglob("recipe.yaml")]
    assert [recipe["data"] for recipe in recipes] == ["wikitext-2", "wikitext-2"]
