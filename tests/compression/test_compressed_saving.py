"""What a compressed model leaves in a folder, and what is made of it there."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compressible import every_family, made, skewed_windows, weight_of
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from lumenspark.compression.svd import collect_activations, compress
from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.models import LumiereConfig, LumiereForCausalLM, modeling_compressed


@pytest.fixture
def windows() -> Tensor:
    return skewed_windows()


@pytest.fixture
def ids() -> Tensor:
    return skewed_windows()[:3, :11]


def loaded(folder: Path) -> Any:
    """As this package loads it, without the code that lies in the folder."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = AutoModelForCausalLM if name.startswith("Lum") else getattr(modeling_compressed, name)
    return kind.from_pretrained(folder)


@every_family
def test_what_is_saved_loads_and_saves_again(
    family: str, windows: Tensor, ids: Tensor, tmp_path: Path
) -> None:
    model = made(family)
    architecture, model_type = type(model).__name__, model.config.model_type
    rows = compress(model, params=0.5, activations=collect_activations(model, windows)).layers
    logits = model(ids).logits
    text = model.generate(ids, max_new_tokens=8, do_sample=False)
    weights = dict(model.named_parameters())
    folder = tmp_path / "first"
    model.save_pretrained(folder)
    for again in ("second", "third"):
        model = loaded(folder)
        for name, weight in model.named_parameters():
            assert torch.equal(weight, weights[name])
        torch.testing.assert_close(model(ids).logits, logits)  # another alignment in memory
        assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False), text)
        folder = tmp_path / again
        model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert config["model_type"] == model_type
    changed = {row.name: row.rank for row in rows if row.weights < row.weights_before}
    assert config["module_ranks"] == changed
    for name, rank in changed.items():
        assert model.get_submodule(name).V.weight.shape[0] == rank


@pytest.mark.parametrize("family", ["lumiere", "lumenspark"])
def test_the_backbone_has_the_same_ranks(family: str, ids: Tensor, tmp_path: Path) -> None:
    model = made(family)
    compress(model, rank=4)
    model.save_pretrained(tmp_path)
    backbone = AutoModel.from_pretrained(tmp_path)
    expected = model.model(ids).last_hidden_state
    torch.testing.assert_close(backbone(ids).last_hidden_state, expected)


def test_a_copy_is_as_good(windows: Tensor, ids: Tensor, tmp_path: Path) -> None:
    model = made("llama")
    compress(model, rank=4)
    twin = copy.deepcopy(model)
    twin.save_pretrained(tmp_path)
    torch.testing.assert_close(loaded(tmp_path)(ids).logits, model(ids).logits)


def test_the_code_lies_beside_the_weights(tmp_path: Path) -> None:
    model = made("gpt2")
    compress(model, rank=4)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {"AutoModelForCausalLM": "modeling_compressed.GPT2LMHeadModel"}
    assert {path.name for path in tmp_path.glob("*.py")} >= {
        "modeling_compressed.py",
        "module_ranks.py",
        "lowrank_linear.py",
    }
    for path in tmp_path.glob("*.py"):
        assert "lumenspark." not in path.read_text(encoding="utf-8").replace("`", "")


def test_a_model_that_transformers_does_not_have() -> None:
    with pytest.raises(AttributeError, match="transformers has no model called 'LlamaForNobody'"):
        modeling_compressed.LlamaForNobody  # noqa: B018


def test_a_fresh_lumiere_can_have_ranks() -> None:
    names = [f"model.layers.{layer}.{part}" for layer in range(4) for part in ("mlp.gate_proj",)]
    output = "model.layers.0.self_attn.o_proj"
    torch.manual_seed(0)
    model = LumiereForCausalLM(LumiereConfig(module_ranks=dict.fromkeys([*names, output], 16)))
    weights = torch.stack([weight_of(model.get_submodule(name)) for name in names])
    assert 0.018 < weights.std() < 0.022  # as a dense layer's, 0.02
    assert torch.count_nonzero(weight_of(model.get_submodule(output))) == 0


STRANGER = """
import sys
sys.modules["lumenspark"] = None  # importing it is an error from here on
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

ids = torch.tensor([[5, 6, 7, 8]])
for folder in sys.argv[1:]:
    for source, target in ((folder, folder + "-again"), (folder + "-again", folder + "-third")):
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True)
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(source, trust_remote_code=True).save_pretrained(target)
    write = pipeline("text-generation", model=target, trust_remote_code=True)
    text = write("The lamp", max_new_tokens=12, do_sample=False)[0]["generated_text"]
    assert text.startswith("The lamp")
    made = model.generate(ids, max_new_tokens=12, do_sample=False)
    save_file({"logits": write.model(ids).logits, "made": made}, folder + ".safetensors")
"""


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return to_transformers(
        train_tokenizer(["The ferry left the harbour before the sun was up."], 300)
    )


@pytest.mark.slow
def test_a_stranger_loads_the_folders_without_this_package(
    tokenizer: PreTrainedTokenizerFast, windows: Tensor, tmp_path: Path
) -> None:
    models = {}
    for number, family in enumerate(("llama", "gpt2", "lumiere", "lumenspark")):
        model = made(family)
        compress(model, params=0.5, activations=collect_activations(model, windows))
        models[str(tmp_path / f"model{number}")] = model
        model.save_pretrained(tmp_path / f"model{number}")
        tokenizer.save_pretrained(tmp_path / f"model{number}")
    finished = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, *models],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    ids = torch.tensor([[5, 6, 7, 8]])
    for folder, model in models.items():
        there = load_file(f"{folder}.safetensors")
        torch.testing.assert_close(there["logits"], model(ids).logits, rtol=1e-4, atol=1e-4)
        made_here = model.generate(ids, max_new_tokens=12, do_sample=False)
        assert torch.equal(there["made"], made_here)
