"""An upload to a local stand-in for the hub, over HTTP."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_stand_in import Hub
from transformers import AutoModelForCausalLM, AutoTokenizer

from lumenspark.data.corpora import Corpus
from lumenspark.errors import UserError
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import store
from lumenspark.model_card.card import build_card
from lumenspark.upload import push

TOKEN = "hf_a_token_of_the_stand_in"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with Hub(TOKEN, owner="someone") as hub:
        yield hub


def test_what_arrives_is_the_model(run: Path, hub: Hub, tmp_path: Path) -> None:
    """In a process of its own, pointed to the stand-in as a user would do it."""
    program = (
        "import sys; from pathlib import Path; from lumenspark.upload import push; "
        "print(push(Path(sys.argv[1]), 'someone/tiny'))"
    )
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program, str(run)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{hub.endpoint}/someone/tiny"
    assert hub.commits == ["Checkpoint best of run k3v9x2mq"]

    folder = run / "checkpoints" / "best"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "modeling_tiny.py"):
        assert hub.files[name] == (folder / name).read_bytes()
    assert hub.files["loss.svg"] == (run / "loss.svg").read_bytes()
    assert hub.files["README.md"].decode() == str(build_card(run, hub_id="someone/tiny"))
    assert not {"trainer.json", "trainer.safetensors", "complete.json"} & hub.files.keys()
    assert not (run / "README.md").exists()

    received = tmp_path / "received"
    received.mkdir()
    for name, content in hub.files.items():
        (received / name).write_bytes(content)
    sent = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    loaded = AutoModelForCausalLM.from_pretrained(received).state_dict()
    assert sent.keys() == loaded.keys()
    assert all(torch.equal(sent[name], loaded[name]) for name in sent)
    text = "A kettle boils ."
    assert (
        AutoTokenizer.from_pretrained(received)(text)["input_ids"]
        == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    )


def test_a_second_push_goes_to_the_same_repository(run: Path, hub: Hub) -> None:
    for _ in range(2):
        url = push(run, "someone/tiny", token=TOKEN, endpoint=hub.endpoint)
        assert url == f"{hub.endpoint}/someone/tiny"
    assert len(hub.commits) == 2
    assert list(hub.repositories) == ["someone/tiny"]


def test_private(run: Path, hub: Hub) -> None:
    push(run, "someone/tiny", token=TOKEN, endpoint=hub.endpoint, private=True)
    assert "private" in str(hub.repositories["someone/tiny"])


def test_no_folder_of_the_disk_is_published(run: Path, hub: Hub, corpus: Corpus) -> None:
    folder = run / "checkpoints" / "best"
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = evaluate(model, AutoTokenizer.from_pretrained(folder), corpus)
    command = f"lumenspark evaluate {run} --data {corpus.name}"
    store(run, found, checkpoint="best", step=40, command=command)
    push(run, "someone/tiny", token=TOKEN, endpoint=hub.endpoint)
    for name, content in hub.files.items():
        for path in ("/home/someone", str(run.parent), str(Path(corpus.name).parent)):
            assert path.encode() not in content, name


def test_a_damaged_checkpoint_stays_here(run: Path, hub: Hub) -> None:
    weights = run / "checkpoints" / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"nothing was uploaded, because .*model\.safetensors was"):
        push(run, "someone/tiny", token=TOKEN, endpoint=hub.endpoint)
    assert hub.files == {}
    assert hub.repositories == {}


def test_a_rejected_token(run: Path, hub: Hub) -> None:
    with pytest.raises(UserError, match="rejected the token: make a new one"):
        push(run, "someone/tiny", token="hf_wrong", endpoint=hub.endpoint)
    assert hub.files == {}


def test_a_repository_of_another(run: Path, hub: Hub) -> None:
    with pytest.raises(UserError, match="may not write to other/tiny"):
        push(run, "other/tiny", token=TOKEN, endpoint=hub.endpoint)


@pytest.mark.parametrize(
    ("part", "status", "message"),
    [
        (
            "/api/validate-yaml",
            400,
            "was refused: Invalid metadata in README.md. - no such license",
        ),
        (
            "/commit/",
            413,
            r"responded with status 413 \(too large no such license\): nothing was committed",
        ),
        ("/storage/", 400, "responded with status 400"),
    ],
)
def test_what_the_hub_refuses(run: Path, hub: Hub, part: str, status: int, message: str) -> None:
    content = {"error": "too large", "errors": [{"message": "no such license"}]}
    hub.refusals[part] = (status, content)
    with pytest.raises(UserError, match=message):
        push(run, "someone/tiny", token=TOKEN, endpoint=hub.endpoint)
    assert hub.commits == []


def test_no_token(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="needs a token to upload"):
        push(run, "someone/tiny", endpoint=hub.endpoint)


def test_nobody_answers(run: Path) -> None:
    with socket.socket() as listener:  # bound but not listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UserError, match="cannot be reached"):
            push(run, "someone/tiny", token=TOKEN, endpoint=endpoint)


def test_offline(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(run, "someone/tiny", token=TOKEN, endpoint=hub.endpoint)


@pytest.mark.parametrize("repo_id", ["a/b/c", "someone/ti ny", "someone/--", ""])
def test_a_malformed_id(run: Path, repo_id: str) -> None:
    with pytest.raises(UserError, match="is not a valid repository id"):
        push(run, repo_id, token=TOKEN)


def test_an_id_without_owner(run: Path) -> None:
    with pytest.raises(UserError, match="write it as user/tiny"):
        push(run, "tiny", token=TOKEN)
