"""Lumenspark's configuration, and saving and loading of what only Lumenspark has.

What it shares with Lumiére is tested in ``test_lumiere_saving.py``, with both.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import every_attention, fill_with_noise, new_model, small_config
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lumenspark.models import LumensparkConfig, LumensparkForCausalLM


@pytest.fixture
def family() -> str:
    return "lumenspark"


OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "dense layers": {"rank": None},
    "biases": {"attention_bias": True, "head_bias": True, "tie_word_embeddings": False},
    "ranks of their own": {
        "module_ranks": {
            "model.layers.0.attention.q_proj": None,
            "model.layers.1.feed_forward.down_proj": 20,
        }
    },
}


def assert_saved_and_loaded_alike(
    model: LumensparkForCausalLM, ids: Tensor, folder: Path
) -> LumensparkForCausalLM:
    model.save_pretrained(folder)
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert type(loaded) is LumensparkForCausalLM
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert torch.equal(
        loaded.generate(ids, max_new_tokens=9), model.generate(ids, max_new_tokens=9)
    )
    return loaded


@every_attention
def test_every_attention_is_saved_and_loaded_alike(
    model: LumensparkForCausalLM, changes: dict[str, Any], ids: Tensor, tmp_path: Path
) -> None:
    loaded = assert_saved_and_loaded_alike(model, ids, tmp_path)
    assert (loaded.config.k, loaded.config.projection) == (
        changes.get("k", 3),
        changes.get("projection", "content"),
    )


@pytest.mark.parametrize("changes", OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_every_setting_is_saved_and_loaded_alike(
    model: LumensparkForCausalLM, ids: Tensor, tmp_path: Path
) -> None:
    assert_saved_and_loaded_alike(model, ids, tmp_path)


def test_the_configuration_is_written_under_the_documents_names_and_those_of_transformers(
    model: LumensparkForCausalLM, tmp_path: Path
) -> None:
    """The latter for tools that read the file, or ``to_dict``, and know nothing of the former."""
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    expected = {"seq_length": 16, "embed_dim": 32, "depth": 2, "heads": 4, "k": 3, "rank": 8}
    theirs = {
        "max_position_embeddings": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    assert (expected | theirs).items() <= written.items()
    assert LumensparkConfig.from_pretrained(tmp_path, embed_dim=64).hidden_size == 64
    assert LumensparkConfig.from_pretrained(tmp_path, hidden_size=64).embed_dim == 64
    (tmp_path / "config.json").write_text(json.dumps(written | {"embed_dim": 64}))
    with pytest.raises(ValueError, match="hidden_size=32 and embed_dim=64 are names of the same"):
        LumensparkConfig.from_pretrained(tmp_path)


def test_a_configuration_survives_the_way_through_its_file(tmp_path: Path) -> None:
    config = LumensparkConfig(
        embed_dim=96,
        heads=3,
        k=None,
        rank=None,
        window=16,
        projection="position",
        layer_scale=0.5,
        module_ranks={"model.layers.0.attention.q_proj": 16},
    )
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is LumensparkConfig
    loaded = LumensparkConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.head_dim, loaded.k, loaded.rank) == (32, None, None)
    assert LumensparkConfig.from_pretrained(tmp_path, dropout=0.0, k=8).k == 8


def test_settings_can_be_changed_while_loading(
    model: LumensparkForCausalLM, ids: Tensor, tmp_path: Path
) -> None:
    """Dense attention and low-rank attention have the same weights, but for the slots'."""
    model.save_pretrained(tmp_path)
    loaded = LumensparkForCausalLM.from_pretrained(tmp_path, k=None)
    assert loaded.config.k is None
    dense = fill_with_noise(new_model(small_config("lumenspark", k=None))).eval()
    dense.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(loaded(ids).logits, dense(ids).logits)


def test_the_documents_way_of_loading(
    model: LumensparkForCausalLM, ids: Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    config = LumensparkConfig.from_pretrained(tmp_path)
    loaded = LumensparkForCausalLM.from_pretrained(tmp_path, config=config)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_what_the_file_does_not_hold_is_initialised_as_in_a_fresh_model(
    ids: Tensor, tmp_path: Path
) -> None:
    """Loading starts on the meta device, where nothing has a value."""
    torch.manual_seed(0)
    settings = {"embed_dim": 128, "rank": 32, "depth": 1, "attention_bias": True, "k": 16}
    model = fill_with_noise(new_model(small_config("lumenspark", **settings))).eval()
    model.save_pretrained(tmp_path)
    block = "model.layers.0."
    missing = {
        f"{block}attention.q_proj.U.weight",
        f"{block}attention.q_proj.V.weight",
        f"{block}attention.k_proj.U.bias",
        f"{block}attention.write",
        f"{block}attention_scale.scale",
        f"{block}attention_norm.weight",
        f"{block}feed_forward_norm.bias",
        "model.embed_positions.weight",
    }
    file = tmp_path / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if name not in missing}
    save_file(weights, file, metadata={"format": "pt"})
    loaded, report = LumensparkForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == missing
    attention = loaded.model.layers[0].attention
    product = attention.q_proj.to_dense().weight.detach()
    assert float(product.std()) == pytest.approx(0.02, rel=0.1)
    assert torch.count_nonzero(attention.k_proj.U.bias) == 0
    assert float(attention.write.detach().std()) == pytest.approx(1, rel=0.1)
    weights = dict(loaded.named_parameters())
    assert torch.equal(weights[f"{block}attention_scale.scale"], torch.full((128,), 0.1))
    assert torch.equal(weights[f"{block}attention_norm.weight"], torch.ones(128))
    assert torch.count_nonzero(weights[f"{block}feed_forward_norm.bias"]) == 0
    positions = weights["model.embed_positions.weight"].detach()
    assert float(positions.std()) == pytest.approx(0.02, rel=0.1)
    for name, weight in model.named_parameters():
        assert name in missing or torch.equal(weights[name], weight)


def test_weights_in_a_pickle_are_not_read(model: LumensparkForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"whatever it may hold")
    for loader in (LumensparkForCausalLM, AutoModelForCausalLM):
        with pytest.raises(OSError, match="safetensors"):
            loader.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"embed_dim": 30, "heads": 4}, "embed_dim=30 must be a multiple of heads=4"),
        ({"heads": 0}, "embed_dim=768 must be a multiple of heads=0"),
        ({"k": -1}, "k=-1 must be 0 or more, or null for dense attention"),
        ({"window": 0}, "window=0 must be 1 or more"),
        ({"rank": 0}, "rank=0 must be from 1 to 383 for embed_dim=768, beyond which it saves"),
        ({"rank": 384}, "rank=384 must be from 1 to 383 for embed_dim=768, beyond which it saves"),
    ],
)
def test_numbers_that_make_no_model(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        LumensparkConfig(**settings)


@pytest.mark.parametrize("wrong", [{"projection": "slots"}, {"embed_dim": "wide"}, {"k": 1.5}])
def test_a_setting_of_the_wrong_type_is_an_error_that_names_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(wrong))):
        LumensparkConfig(**wrong)


def test_the_highest_rank_that_saves_weights_is_allowed() -> None:
    assert LumensparkConfig(rank=383).rank == 383
    assert LumensparkConfig(rank=None).rank is None


def test_a_rank_of_a_single_layer_that_saves_nothing_is_an_error() -> None:
    own = {"model.layers.0.attention.q_proj": 16}
    with pytest.raises(ValueError, match="rank 16 for a layer from 32 to 32 features: choose one"):
        new_model(small_config("lumenspark", module_ranks=own))


NAMES = {
    "max_position_embeddings": "seq_length",
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
}


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_the_names_of_transformers_are_other_names_of_the_same_settings(
    theirs: str, ours: str
) -> None:
    config = LumensparkConfig(rank=None, **{theirs: 96})
    assert getattr(config, theirs) == getattr(config, ours) == 96
    assert config.to_dict() == LumensparkConfig(rank=None, **{ours: 96}).to_dict()
    assert config.to_dict()[theirs] == config.to_dict()[ours] == 96
    setattr(config, theirs, 48)
    assert getattr(config, ours) == 48
    setattr(config, ours, 24)
    assert getattr(config, theirs) == 24


def test_numbers_are_checked_under_the_names_of_transformers_too() -> None:
    assert LumensparkConfig(hidden_size=1020, rank=400).embed_dim == 1020
    with pytest.raises(ValueError, match="embed_dim=30 must be a multiple of heads=4"):
        LumensparkConfig(hidden_size=30, num_attention_heads=4, rank=None)
    with pytest.raises(ValueError, match="rank=256 must be from 1 to 47 for embed_dim=96"):
        LumensparkConfig(hidden_size=96)
