"""Hub sets, by `datasets` from a folder on disk: the code is the same but for the download."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumenspark.data.corpora import open_corpus
from lumenspark.data.hub_datasets import HubDataset
from lumenspark.data.tokens import prepare
from lumenspark.errors import UserError, first_line


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def hub_set(folder: Path, splits: dict[str, list[str]], **options: object) -> HubDataset:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        pq.write_table(pa.table({"text": rows}), folder / f"{split}-00000-of-00001.parquet")
    return HubDataset("org/set", str(folder), revision="0" * 40, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("streaming", [False, True])
def test_wikitext_rows_give_the_published_file(
    tmp_path: Path, articles_text: str, streaming: bool
) -> None:
    rows = [line if line.strip() else "" for line in articles_text.splitlines(keepends=True)]
    splits = {"train": rows, "validation": rows[:9]}
    corpus = hub_set(tmp_path / "set", splits, layout="wikitext", streaming=streaming)
    assert corpus.splits() == ("train", "validation")
    assert corpus.text("train") == articles_text
    assert sum(piece.starts for piece in corpus.pieces("train")) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_a_set_of_train_alone_is_divided_by_hash(tmp_path: Path, streaming: bool) -> None:
    rows = [f"document {i}" for i in range(300)]
    corpus = hub_set(tmp_path / "set", {"train": rows}, streaming=streaming)
    parts = {split: {piece.text for piece in corpus.pieces(split)} for split in corpus.splits()}
    assert set(parts) == {"train", "validation", "test"}
    assert all(parts.values())
    assert set.union(*parts.values()) == set(rows)
    assert sum(map(len, parts.values())) == len(rows)


def test_a_set_with_a_named_split_is_not_divided(tmp_path: Path) -> None:
    corpus = hub_set(tmp_path / "set", {"test": ["one", "two"]})
    assert corpus.splits() == ("test",)
    assert [piece.text for piece in corpus.pieces("test")] == ["one", "two"]
    assert corpus.size("test")
    with pytest.raises(UserError, match="org/set has no train split, only test"):
        list(corpus.pieces("train"))


def test_a_wrong_text_field_names_those_present(tmp_path: Path) -> None:
    corpus = hub_set(tmp_path / "set", {"train": ["x"], "test": ["y"]}, text_field="body")
    with pytest.raises(UserError, match=r"org/set, test, row 1 has no field 'body'.*'text'"):
        list(corpus.pieces("test"))


def test_the_digest_tells_sets_apart_without_loading_them() -> None:
    def digest(**changed: object) -> str:
        options = {"hub_id": "org/set", "revision": "0" * 40, "config": None} | changed
        return HubDataset("name", **options).digest()  # type: ignore[arg-type]

    others = [digest(hub_id="org/b"), digest(revision="1" * 40), digest(config="c")]
    others.append(digest(text_field="body"))
    assert len({digest(), *others}) == 5
    assert digest() == digest()


def test_a_set_that_is_a_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("")
    corpus = HubDataset("org/set", str(tmp_path / "set"), revision="0" * 40)
    with pytest.raises(UserError, match=r"cannot be loaded: Dataset scripts are no longer supp"):
        corpus.splits()


def test_a_stream_that_breaks_off_is_no_full_disk(tmp_path: Path) -> None:
    corpus = hub_set(tmp_path / "set", {"train": ["one"], "test": ["two"]}, streaming=True)
    assert corpus.splits() == ("train", "test")
    (tmp_path / "set" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(
        UserError, match=r"^org/set, train, after row 0, cannot be read \(.*try again"
    ):
        prepare(corpus, vocab_size=300)


def test_an_error_without_a_message_is_called_by_its_kind() -> None:
    assert first_line(ConnectionError(" \n")) == "ConnectionError"
    assert first_line(ValueError("\n one\ntwo")) == "one"


def test_wikitext_2_is_pinned_and_opens_without_network() -> None:
    corpus = open_corpus("wikitext-2")
    assert corpus.hub_id == "Salesforce/wikitext"
    assert corpus.revision == "b08601e04326c79dfdd32d625aee71d232d685c3"
    assert (corpus.layout, corpus.license, corpus.language) == ("wikitext", "CC BY-SA", "en")


def test_wikitext_2_takes_another_revision_but_no_config() -> None:
    corpus = open_corpus("wikitext-2", revision="a" * 40)
    assert corpus.revision == "a" * 40
    assert corpus.digest() != open_corpus("wikitext-2").digest()
    with pytest.raises(UserError, match="omit the config, or use Salesforce/wikitext as"):
        open_corpus("wikitext-2", config="wikitext-103-raw-v1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on this machine that knows four sets, each by what its card says of languages."""
    with HTTPServer(("127.0.0.1", 0), Card) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        yield
        server.shutdown()
        thread.join()


CARDS: dict[str, object] = {}
LANGUAGES = {"org/one": "de", "org/list": ["de"], "org/two": ["de", "en"]}


class Card(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub_id, _, revision = self.path.removeprefix("/api/datasets/").partition("/revision/")
        content = {"id": hub_id, "sha": ("b" if revision else "a") * 40, "siblings": []}
        card = {"license": "mit", "language": LANGUAGES.get(hub_id)}
        content["cardData"] = CARDS.get(hub_id, card)
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """No lines on the terminal."""


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("hub_id", "language"),
    [("org/one", "de"), ("org/list", "de"), ("org/two", None), ("org/none", None)],
)
def test_the_language_is_the_one_that_the_hub_states(hub_id: str, language: str | None) -> None:
    corpus = open_corpus(hub_id)
    assert (corpus.language, corpus.license, corpus.revision) == (language, "mit", "a" * 40)


@pytest.mark.usefixtures("hub")
def test_a_named_revision_is_resolved() -> None:
    for source in ("org/one", "wikitext-2"):
        assert open_corpus(source, revision="v1").revision == "b" * 40


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub at an address where nothing listens."""
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.usefixtures("no_network")
def test_without_network_the_offline_way_is_named() -> None:
    with pytest.raises(UserError, match=r"hub cannot be reached.*hf download org/set"):
        open_corpus("org/set")
    message = "--repo-type dataset --include 'wikitext-2-raw-v1/\\*' --local-dir FOLDER"
    with pytest.raises(UserError, match=message):
        list(open_corpus("wikitext-2").pieces("test"))


def test_offline_mode_needs_a_full_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"offline: give the revision as a full commit id"):
        open_corpus("org/set")
    assert open_corpus("org/set", revision="a" * 40).revision == "a" * 40


# --- what strangers put on the hub -------------------------------------------------------------


def set_with_splits(folder: Path, *names: str) -> HubDataset:
    """A set whose card names its splits; a row is the name of its split."""
    folder.mkdir()
    lines = [f"  - split: {name}\n    path: {name}.parquet" for name in names]
    card = "\n".join(["---", "configs:", "- config_name: default", "  data_files:", *lines, "---"])
    (folder / "README.md").write_text(card)
    for name in names:
        pq.write_table(pa.table({"text": [name]}), folder / f"{name}.parquet")
    return HubDataset("org/set", str(folder), revision="0" * 40)


def test_splits_that_are_not_read_are_said(tmp_path: Path) -> None:
    corpus = set_with_splits(tmp_path / "set", "train", "validation", "heldout", "train_extra")
    assert corpus.splits() == ("train", "validation")
    assert not corpus.is_divided()
    said = str(corpus.describe_left_out())
    assert said.startswith("left out: 2 splits of ")
    assert said.endswith("(heldout, train_extra)")


@pytest.mark.parametrize("names", [("val", "validation"), ("validation", "dev"), ("val", "dev")])
def test_of_two_validation_splits_the_plain_one_is_read(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    corpus = set_with_splits(tmp_path / "set", "train", *names)
    (read,) = corpus.pieces("validation")
    assert read.text == ("validation" if "validation" in names else "val")
    assert len(corpus.left_out) == 1


@pytest.mark.parametrize("error", [RecursionError("deep"), KeyError("features"), MemoryError()])
def test_whatever_loading_a_set_raises_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", broken)
    with pytest.raises(UserError, match=r"the dataset .* cannot be loaded: .*; choose another"):
        HubDataset("org/set", str(tmp_path), revision="0" * 40).splits()


@pytest.mark.parametrize("rows", [b"PAR1 nothing PAR1", b"", b"\0" * 4096])
@pytest.mark.parametrize("streaming", [False, True])
def test_damaged_files_of_a_set_are_a_sentence(
    tmp_path: Path, rows: bytes, streaming: bool
) -> None:
    corpus = hub_set(tmp_path / "set", {"train": ["x"], "test": ["y"]}, streaming=streaming)
    (tmp_path / "set" / "train-00000-of-00001.parquet").write_bytes(rows)
    with pytest.raises(UserError, match=r"(org/set|the dataset) .*cannot be (loaded|read)"):
        list(corpus.pieces("train"))


def test_rows_that_are_no_text_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.table({"text": [["a"]]}), folder / "train-0.parquet")
    pq.write_table(pa.table({"text": [["a"]]}), folder / "test-0.parquet")
    corpus = HubDataset("org/set", str(folder), revision="0" * 40)
    with pytest.raises(UserError, match=r"org/set, train, row 1: the field 'text' is list, not"):
        list(corpus.pieces("train"))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("card", [[], "text", {"license": []}, {"license": {}, "language": [1]}])
def test_a_card_that_says_nothing_sensible_is_passed_over(
    card: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARDS, "org/odd", card)
    try:
        corpus = open_corpus("org/odd")
    except UserError as error:
        assert "what the hub says of the dataset 'org/odd' cannot be read" in str(error)  # noqa: PT017
    else:
        assert corpus.language is None
        assert corpus.license is None or isinstance(corpus.license, str)
