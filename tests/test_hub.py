"""Models and tokenizers of the hub at a revision: from a local stand-in, and from the cache."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from command_line import overrides
from model_hub import ModelHub

import lumenspark
from lumenspark.cli import run
from lumenspark.data.tokenizer import load_tokenizer, to_transformers, train_tokenizer
from lumenspark.errors import UserError
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.runs.run import Run

HUB_ID = "someone/tiny"
TEXT = "The lighthouse stands on the last rock of the coast, and its lamp is lit at dusk. " * 3


def save_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 96}
    config = LumiereConfig(vocab_size=280, max_position_embeddings=32, **sizes)
    LumiereForCausalLM(config).save_pretrained(folder)
    # The two commits have tokenizers of different sizes, so that each shows which one it is of.
    to_transformers(train_tokenizer([TEXT], 270 + seed), 32).save_pretrained(folder)
    return folder


@pytest.fixture
def hub(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModelHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    folder = tmp_path_factory.mktemp("commits")
    with ModelHub(HUB_ID) as hub:
        address = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        hub.commit(save_model(folder / "old", seed=1), "v1")
        hub.commit(save_model(folder / "new", seed=2), "main")
        yield hub


@pytest.fixture
def offline(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> ModelHub:
    """After a first look at both commits the hub is gone: HF_HUB_OFFLINE."""
    lumenspark.load(HUB_ID)
    lumenspark.load(f"{HUB_ID}@v1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    return hub


def entries(name: str) -> int:
    _, tokenizer = lumenspark.load(name)
    return len(tokenizer)


def test_a_revision_is_a_commit_a_branch_or_a_tag(hub: ModelHub) -> None:
    old, new = hub.names["v1"], hub.names["main"]
    for name, revision, commit, size in (
        (HUB_ID, None, new, 272),
        (HUB_ID, "main", new, 272),
        (HUB_ID, "v1", old, 271),
        (f"{HUB_ID}@v1", None, old, 271),
        (f"{HUB_ID}@{old}", None, old, 271),
        (f"{HUB_ID}@{old}", old, old, 271),
    ):
        model, tokenizer = lumenspark.load(name, revision=revision)
        assert (model.hub_revision, len(tokenizer)) == (commit, size)
        assert len(load_tokenizer(f"{HUB_ID}@{revision}" if revision else name)) == size
    assert model.generate(text="The", max_new_tokens=2).startswith("The")  # its own tokenizer


def test_the_newest_commit_is_asked_for(hub: ModelHub, tmp_path: Path) -> None:
    assert entries(HUB_ID) == 272
    hub.commit(save_model(tmp_path / "newer", seed=3), "main")
    assert entries(HUB_ID) == 273


def test_a_commit_that_is_there_needs_no_network(hub: ModelHub) -> None:
    commit = hub.names["v1"]
    lumenspark.load(f"{HUB_ID}@{commit}")
    hub.asked.clear()
    assert entries(f"{HUB_ID}@{commit}") == 271
    assert not hub.asked


def test_offline_the_cache_serves(offline: ModelHub) -> None:
    assert (entries(HUB_ID), entries(f"{HUB_ID}@v1")) == (272, 271)
    assert entries(f"{HUB_ID}@{offline.names['v1']}") == 271
    assert len(load_tokenizer(f"{HUB_ID}@v1")) == 271
    with pytest.raises(UserError, match="someone/tiny at revision v2 is not in the hub cache"):
        lumenspark.load(HUB_ID, revision="v2")
    assert not offline.asked


def test_a_hub_out_of_reach_is_as_good_as_offline(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    lumenspark.load(HUB_ID)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert entries(HUB_ID) == 272
    with pytest.raises(UserError, match="the hub cannot be reached"):
        lumenspark.load(HUB_ID, revision="v2")


def test_names_that_cannot_be(hub: ModelHub, trained: Path) -> None:
    for name, revision, reason in (
        (HUB_ID, "v2", "no such model on the hub"),
        (f"{HUB_ID}@v1", "main", "and the revision 'main' differ: give one of them"),
        (f"{HUB_ID}@", None, "write a hub model as org/model@revision"),
        ("@v1", None, "write a hub model as org/model@revision"),
        (str(trained), "v1", "which has no revisions"),
        (f"{trained.name}@v1", None, "which has no revisions"),
        ("someone/nothing", None, "no such model on the hub"),
    ):
        with pytest.raises(UserError, match=reason):
            lumenspark.load(name, revision=revision)


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path: Path) -> None:
    assert entries(str(save_model(tmp_path / "tiny@home", seed=5))) == 275


def test_what_is_no_part_of_the_model_is_not_fetched(hub: ModelHub, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "more", seed=4)
    for name in ("pytorch_model.bin", "evil.py", "model.onnx", "consolidated.safetensors"):
        (folder / name).write_bytes(b"x")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    commit = hub.commit(folder, "more")
    lumenspark.load(HUB_ID, revision="more")
    fetched = tmp_path / "cache" / "models--someone--tiny" / "snapshots" / commit
    assert {path.name for path in fetched.rglob("*")} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_pickles_alone_are_refused(hub: ModelHub, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "pickle", seed=4)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.commit(folder, "pickle")
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        lumenspark.load(HUB_ID, revision="pickle")


def test_every_verb_takes_a_revision_and_what_keeps_figures_records_it(
    hub: ModelHub,
    tmp_path: Path,
    own_runs: Path,
    text_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    old, data = hub.names["v1"], ["--data", str(text_folder)]
    assert run(["generate", HUB_ID, "The", "--revision", "v1", "--max-new-tokens", "3"]) == 0
    assert run(["inspect", HUB_ID, "The lamp", "--revision", "v1", "--compare", HUB_ID]) == 0
    assert run(["compress", HUB_ID, "small", "--rank", "4", "--revision", "v1"]) == 0
    config = json.loads(Path("small/config.json").read_text())
    assert config["compressed_from"] == {"model": HUB_ID, "revision": old}
    capsys.readouterr()
    for given in (["evaluate", HUB_ID, "--revision", "v1"], ["evaluate", f"{HUB_ID}@v1"]):
        assert run([*given, *data, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["model_revision"] == old
    stored = list(own_runs.glob("evaluations/*/evaluation.json"))
    for file in stored:
        (entry,) = json.loads(file.read_text())["evaluations"]
        assert entry["model_revision"] == old
    assert stored
    printed = capsys.readouterr()
    assert run(["convert", HUB_ID, "new", "--revision", "v1"]) == 2
    assert "is not a checkpoint of lumenspark 0.1" in capsys.readouterr().err, printed


@pytest.mark.parametrize("key", ["init_from", "tokenizer.name"])
def test_a_run_stays_with_the_commit_that_it_began_with(
    key: str, hub: ModelHub, tmp_path: Path, own_runs: Path, text_folder: Path
) -> None:
    more = ["--data", str(text_folder), f"--{key}", f"{HUB_ID}@v1", *overrides()]
    assert run(["train", "lumiere-tiny", *more]) == 0
    (path,) = own_runs.glob("*/recipe.yaml")
    made = Run(path.parent)
    pinned = f"{HUB_ID}@{hub.names['v1']}"
    recipe = made.recipe()
    assert pinned == (recipe.init_from or recipe.tokenizer.name)
    environment = made.environment()
    assert pinned == (environment["init_from"] or environment["tokenizer"])
    hub.names["v1"] = hub.names["main"]  # the tag moves on, and the run does not
    assert run(["resume", made.id]) == 0
    assert len(lumenspark.load(made.id, "last")[1]) == 271
