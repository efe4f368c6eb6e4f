"""Loading: the weights in a folder are those of its model, all of them, and as they were saved."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressible import FAMILIES, made
from old_checkpoint import write_old
from safetensors.torch import load_file, save_file
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

import lumenspark
import lumenspark.files
from lumenspark.compression.svd import compress
from lumenspark.data.tokenizer import load_tokenizer, to_transformers, train_tokenizer
from lumenspark.errors import UserError
from lumenspark.loading import load_model
from lumenspark.model_folder import open_model_folder
from lumenspark.models import LumensparkForCausalLM
from lumenspark.runs.checkpoint import save_checkpoint

TOKENS: dict[str, Any] = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FOREIGN: dict[str, Callable[[], Any]] = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **TOKENS,
            **SMALL,
            pad_token_id=2,
            ffn_dim=64,
            word_embed_proj_dim=32,
            max_position_embeddings=32,
        )
    ),
    "gpt-neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            **TOKENS,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=32,
        )
    ),
    # Their tensors have other names in files than in memory, and other shapes.
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**TOKENS, **SMALL, intermediate_size=64)),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**TOKENS, **SMALL, num_key_value_heads=1, intermediate_size=64)
    ),
}
IDS = torch.arange(3, 14)[None]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return to_transformers(train_tokenizer(["the lamp is lit " * 9], 265), 32)


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        lumenspark.load(str(folder))
    return str(caught.value)


def with_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# --- what is whole loads -----------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, *FOREIGN])
@pytest.mark.parametrize("compressed", [False, True], ids=["as it is", "compressed"])
def test_what_is_whole_loads_as_it_was(
    family: str, compressed: bool, tokenizer: Any, tmp_path: Path
) -> None:
    """Tied weights, which lie in the file once, and buffers, which do not, are not missing."""
    torch.manual_seed(0)
    model = made(family) if family in FAMILIES else FOREIGN[family]().eval()
    folder = saved(model, tokenizer, tmp_path / "plain")
    if compressed:
        model, _ = lumenspark.load(str(folder))
        compress(model, rank=4)
        folder = saved(model, tokenizer, tmp_path / "small")
    loaded, _ = lumenspark.load(str(folder))
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)


def test_an_old_checkpoint_loads(tmp_path: Path) -> None:
    tensors = write_old(tmp_path)
    model = load_model(open_model_folder(tmp_path), model_class=LumensparkForCausalLM)
    assert torch.equal(model.lm_head.weight, tensors["fc_out.weight"])


def test_several_files_load(tokenizer: Any, tmp_path: Path) -> None:
    model = made("llama")
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded, _ = lumenspark.load(str(tmp_path))
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)


def test_buffers_that_older_versions_wrote_are_let_pass(tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("gpt2"), tokenizer, tmp_path)
    old = {f"transformer.h.0.attn.{name}": torch.zeros(1) for name in ("bias", "masked_bias")}
    with_weights(folder, lambda tensors: tensors.update(old))
    lumenspark.load(str(folder))


# --- what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_tensor_is_named(family: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made(family), tokenizer, tmp_path)
    names: list[str] = []

    def forget(tensors: dict[str, Any]) -> None:
        names.append(sorted(tensors)[len(tensors) // 2])
        del tensors[names[0]]

    with_weights(folder, forget)
    assert f"lack {names[0]}: download weights" in refusal(folder)


def test_what_a_file_holds_too_much_of_is_named(tokenizer: Any, tmp_path: Path) -> None:
    """A config.json of fewer layers would leave out the others without a word."""
    folder = saved(made("llama"), tokenizer, tmp_path)
    with_config(folder, num_hidden_layers=1)
    message = refusal(folder)
    assert "hold model.layers.1." in message
    assert "a LlamaForCausalLM does not have" in message


def test_a_wrong_shape_is_named(tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("lumiere"), tokenizer, tmp_path)
    with_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    message = refusal(folder)
    assert "model.norm.weight" in message
    assert "has the shape (31,), and config.json requires (32,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(value: float, tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("lumiere"), tokenizer, tmp_path)
    with_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(value))
    assert "model.norm.weight" in refusal(folder)
    assert "values that are not finite" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_weights_that_are_whole_numbers(dtype: Any, tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path)
    with_weights(
        folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()})
    )
    assert "has an integer type" in refusal(folder)


def test_an_adapter_is_called_one(tokenizer: Any, tmp_path: Path) -> None:
    adapter = '{"base_model_name_or_path": "org/base", "peft_type": "LORA"}'
    (tmp_path / "adapter_config.json").write_text(adapter)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "holds a peft adapter of 'org/base'" in refusal(tmp_path)
    saved(made("llama"), tokenizer, tmp_path)
    assert "merge_and_unload" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pytorch_model.bin", "a pickle, which may run code"), ("model.gguf", "made for llama.cpp")],
)
def test_weights_of_another_kind(name: str, reason: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    assert f"holds no model.safetensors, and {name} is {reason}" in refusal(folder)


def test_another_tokenizer(tmp_path: Path) -> None:
    words = " ".join(f"{a}{b}{a}{b}" for a in "lampsof" for b in "thecoast")
    larger = to_transformers(train_tokenizer([words * 3], 320))
    folder = saved(made("llama"), larger, tmp_path)
    highest = max(larger.get_vocab().values())
    assert highest >= 300
    assert f"has ids up to {highest}, but the model has only 300" in refusal(folder)


def test_a_tokenizer_that_draws_at_random(tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "encodes at random" in refusal(folder)
    with pytest.raises(UserError, match="encodes at random"):
        load_tokenizer(str(folder))


# --- digests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_what_a_checkpoint_has_a_digest_of_is_compared(name: str, copied: Path) -> None:
    file = copied / "checkpoints" / "best" / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # in the weights: the last bits of a number
    file.write_bytes(content)
    for way in (copied, copied / "checkpoints" / "best"):
        message = refusal(way)
        assert f"{name} was truncated or altered" in message
        assert "use another checkpoint" in message
    lumenspark.load(str(copied), "last")


def test_what_only_training_reads_may_be_damaged(copied: Path) -> None:
    (copied / "checkpoints" / "last" / "trainer.json").write_text("")
    lumenspark.load(str(copied), "last")


def test_large_files_are_compared_by_a_sample_and_in_full_on_request(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.runs.checkpoint.LARGE", 1000)
    monkeypatch.setattr("lumenspark.files._PIECE", 16)
    save_checkpoint(tmp_path, "best", 1, made("lumiere"), tokenizer)
    folder = tmp_path / "best"
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    step = (len(content) - 16) // 63
    content[10 * step + 100] ^= 1  # between two pieces of the sample
    weights.write_bytes(content)
    lumenspark.load(str(folder))
    with pytest.raises(UserError, match="was truncated or altered"):
        lumenspark.load(str(folder), full_check=True)
    weights.write_bytes(content + b"\0")
    assert "was truncated or altered" in refusal(folder)


def test_a_pipe_is_not_waited_for(tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path)
    os.mkfifo(folder / "notes")
    assert "notes is neither a file nor a folder" in refusal(folder)


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"num_hidden_layers": 10**6}),
        ("llama", {"num_hidden_layers": 10**12, "layer_types": None}),
        ("llama", {"hidden_size": 10**9}),
        ("llama", {"vocab_size": 10**12}),
        ("llama", {"intermediate_size": 10**15}),
        ("gpt2", {"n_layer": 10**6}),
        ("gpt2", {"n_positions": 10**12}),
        ("gpt2", {"n_inner": 10**18}),
        ("lumiere", {"num_hidden_layers": 10**6}),
        ("lumiere", {"max_position_embeddings": 10**12}),
        ("lumiere", {"num_labels": 10**12}),
        ("lumenspark", {"depth": 10**6}),
        ("lumenspark", {"k": 10**12}),
        ("lumenspark", {"seq_length": 10**12}),
    ],
)
def test_sizes_are_checked_before_memory_is_asked_for(
    family: str, changes: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    folder = saved(made(family), tokenizer, tmp_path)
    with_config(folder, **changes)
    assert str(folder) in refusal(folder)


def test_a_window_beyond_the_context_changes_nothing(tokenizer: Any, tmp_path: Path) -> None:
    model = made("lumenspark")
    folder = saved(model, tokenizer, tmp_path)
    with_config(folder, window=32)
    expected = lumenspark.load(str(folder))[0](IDS).logits
    with_config(folder, window=4096)
    assert torch.equal(lumenspark.load(str(folder))[0](IDS).logits, expected)


def test_more_than_the_memory_holds(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path)
    monkeypatch.setattr("lumenspark.memory._physical", lambda: 50_000.0)
    message = refusal(folder)
    assert "of memory at least, and this machine has 50 kB" in message


def test_memory_that_is_refused_becomes_a_sentence(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path)

    def full(self: Any, *_: Any, **__: Any) -> Any:
        return torch.empty(2**60, dtype=torch.uint8)  # more than any machine has

    monkeypatch.setattr(PreTrainedModel, "to", full)
    assert "does not fit into the free memory of cpu" in refusal(folder)


def test_the_original_stays_as_it_is(tokenizer: Any, tmp_path: Path) -> None:
    folder = saved(made("llama"), tokenizer, tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    lumenspark.load(str(folder))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
