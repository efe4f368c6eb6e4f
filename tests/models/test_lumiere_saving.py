"""What save_pretrained leaves in a folder, and what from_pretrained makes of it.

What Lumenspark does in the same way is tested with both.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import Config, Model, both_families, new_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig

from lumenspark.compression.svd import compress
from lumenspark.models import LumiereConfig, LumiereForCausalLM


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def without(folder: Path, *names: str) -> None:
    """Take weights out of the saved file."""
    file = folder / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if name not in names}
    save_file(weights, file, metadata={"format": "pt"})


@both_families
def test_the_folder_holds_safetensors_with_tied_weights_once(
    folder: Path, model: Model, family: str
) -> None:
    names = {path.name for path in folder.iterdir() if path.suffix != ".py"}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        stored = set(weights.keys())
    assert stored == set(model.state_dict()) - {"lm_head.weight"}
    config = json.loads((folder / "config.json").read_text())
    name = family.capitalize()
    assert config["architectures"] == [f"{name}ForCausalLM"]
    assert config["auto_map"] == {
        "AutoConfig": f"configuration_{family}.{name}Config",
        "AutoModel": f"modeling_{family}.{name}Backbone",
        "AutoModelForCausalLM": f"modeling_{family}.{name}ForCausalLM",
        "AutoModelForSequenceClassification": f"modeling_{family}.{name}ForSequenceClassification",
    }


@both_families
def test_the_code_lies_beside_the_weights(folder: Path, family: str) -> None:
    """All of it: what a file imports from beside itself is there."""
    files = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    assert {f"configuration_{family}", f"modeling_{family}"} < set(files)
    for code in files.values():
        assert not re.search(r"(import|from) lumenspark", code)
        assert set(re.findall(r"^ *from \.(\w+) import", code, flags=re.M)) <= set(files)


LUMIERE_FILES = [
    "attention",
    "classification",
    "config_checks",
    "configuration_lumiere",
    "continuation",
    "decoder",
    "fused_cross_entropy",
    "generation",
    "guidance",
    "layers",
    "modeling_lumiere",
    "packing",
    "sampling",
    "tensor_names",
    "truncation",
]


LOW_RANK_FILES = ["lowrank_linear", "modeling_lumiere_lowrank", "module_ranks", "peft_names"]


def test_lumiere_ships_the_code_that_it_uses(folder: Path, tmp_path: Path) -> None:
    """Low-rank layers have code of their own, beside the weights of a model that has some."""
    assert sorted(path.stem for path in folder.glob("*.py")) == LUMIERE_FILES
    model = LumiereForCausalLM.from_pretrained(folder)
    compress(model, rank=4)
    for again in (tmp_path / "compressed", tmp_path / "again"):
        model.save_pretrained(again)
        files = sorted(path.stem for path in again.glob("*.py"))
        assert files == sorted([*LUMIERE_FILES, *LOW_RANK_FILES])
        written = json.loads((again / "config.json").read_text())["auto_map"]
        assert written == {
            "AutoConfig": "configuration_lumiere.LumiereConfig",
            "AutoModel": "modeling_lumiere_lowrank.LumiereBackbone",
            "AutoModelForCausalLM": "modeling_lumiere_lowrank.LumiereForCausalLM",
            "AutoModelForSequenceClassification": (
                "modeling_lumiere_lowrank.LumiereForSequenceClassification"
            ),
        }
        model = LumiereForCausalLM.from_pretrained(again)


@both_families
def test_the_auto_classes_find_all_three(folder: Path, model: Model, ids: torch.Tensor) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is type(model.config)
    assert config.to_diff_dict() == type(config).from_pretrained(folder).to_diff_dict()
    language_model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(language_model) is type(model)
    assert torch.equal(language_model(ids).logits, model(ids).logits)
    backbone = AutoModel.from_pretrained(folder)
    assert type(backbone) is type(model.model)
    assert torch.equal(backbone(ids).last_hidden_state, model.model(ids).last_hidden_state)
    assert type(AutoModelForCausalLM.from_config(config)) is type(model)


@both_families
def test_a_backbone_saved_alone_loads_alone(
    model: Model, ids: torch.Tensor, tmp_path: Path
) -> None:
    model.model.save_pretrained(tmp_path)
    backbone = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(backbone(ids).last_hidden_state, model.model(ids).last_hidden_state)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@both_families
def test_tied_weights_stay_tied(folder: Path, model: Model, ids: torch.Tensor) -> None:
    loaded = type(model).from_pretrained(folder)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.get_input_embeddings() is loaded.model.embed_tokens
    assert loaded.get_output_embeddings() is loaded.lm_head


@both_families
def test_untied_weights_are_both_stored(config: Config, ids: torch.Tensor, tmp_path: Path) -> None:
    config.tie_word_embeddings = False
    model = new_model(config).eval()
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not loaded.config.tie_word_embeddings
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_generation_settings_are_saved(model: LumiereForCausalLM, tmp_path: Path) -> None:
    assert LumiereForCausalLM(LumiereConfig()).generation_config.eos_token_id == 1
    assert LumiereForCausalLM(LumiereConfig()).generation_config.pad_token_id == 2
    model.generation_config = GenerationConfig(do_sample=True, top_k=7, pad_token_id=2)
    model.save_pretrained(tmp_path)
    loaded = LumiereForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.top_k == 7
    assert loaded.generation_config.do_sample


def test_a_configuration_survives_the_way_through_its_file(tmp_path: Path) -> None:
    config = LumiereConfig(hidden_size=96, num_attention_heads=3, dropout=0.25, rms_norm_eps=1e-5)
    config.save_pretrained(tmp_path)
    loaded = LumiereConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.head_dim, loaded.dropout) == (32, 0.25)
    assert LumiereConfig.from_pretrained(tmp_path, dropout=0.0).dropout == 0.0


def test_a_configuration_of_the_wrong_type_is_an_error() -> None:
    with pytest.raises(Exception, match="hidden_size"):
        LumiereConfig(hidden_size="wide")


def test_what_the_file_does_not_hold_is_initialised_as_in_a_fresh_model(
    folder: Path, model: LumiereForCausalLM
) -> None:
    """Loading starts on the meta device, where nothing has a value."""
    block = "model.layers.0."
    missing = {
        f"{block}self_attn.q_proj.weight",
        f"{block}self_attn.o_proj.weight",
        f"{block}mlp.down_proj.weight",
        f"{block}input_layernorm.weight",
        "model.embed_positions.weight",
    }
    without(folder, *missing)
    loaded, report = LumiereForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert set(report["missing_keys"]) == missing
    weights = dict(loaded.named_parameters())
    assert torch.count_nonzero(weights[f"{block}self_attn.o_proj.weight"]) == 0
    assert torch.count_nonzero(weights[f"{block}mlp.down_proj.weight"]) == 0
    assert torch.equal(weights[f"{block}input_layernorm.weight"], torch.ones(32))
    for name in (f"{block}self_attn.q_proj.weight", "model.embed_positions.weight"):
        assert 0.015 < weights[name].std() < 0.025
    for name, weight in model.named_parameters():
        assert name in missing or torch.equal(weights[name], weight)


@both_families
def test_an_empty_file_gives_a_fresh_model(folder: Path, ids: torch.Tensor) -> None:
    save_file({}, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert not any(weight.is_meta for weight in loaded.state_dict().values())
    assert not any(buffer.is_meta for buffer in loaded.buffers())
    assert 0.015 < loaded.model.embed_tokens.weight.std() < 0.025
    assert loaded(ids, labels=ids).loss < 10


@both_families
def test_a_model_can_be_laid_out_on_the_meta_device(
    config: Config, model: Model, ids: torch.Tensor
) -> None:
    with torch.device("meta"):
        empty = new_model(config)
    assert all(weight.is_meta for weight in empty.parameters())
    assert empty(ids.to("meta")).logits.shape == (3, 11, 300)
    empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty.eval()(ids).logits, model(ids).logits)


@both_families
def test_bfloat16_is_kept(folder: Path, ids: torch.Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.generate(ids, max_new_tokens=9).shape == (3, 20)
    model.save_pretrained(tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


@both_families
def test_the_vocabulary_can_grow_and_shrink(
    model: Model, ids: torch.Tensor, tmp_path: Path
) -> None:
    expected = model(ids).logits
    model.resize_token_embeddings(307)
    assert model.config.vocab_size == 307
    assert model.lm_head.weight is model.model.embed_tokens.weight
    logits = model(ids, labels=ids).logits
    torch.testing.assert_close(logits[..., :300], expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids).logits, logits)
    model.resize_token_embeddings(290)
    assert model(ids.clamp(max=289)).logits.shape == (3, 11, 290)


@both_families
def test_weights_of_another_size(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(folder, vocab_size=310)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        folder, vocab_size=310, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert loaded.model.embed_tokens.weight.shape == (310, 32)
    assert 0.015 < loaded.model.embed_tokens.weight.std() < 0.025
    assert {name for name, *_ in report["mismatched_keys"]} == {"model.embed_tokens.weight"}


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, lumenspark\n"
        "assert {'LumiereConfig', 'LumensparkConfig'} < set(dir(lumenspark))\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert finished.stdout == "[]\n"


STRANGER = """
import sys
sys.modules["lumenspark"] = None  # importing it is an error from here on
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

folder, again = sys.argv[1:]
trusted = {"trust_remote_code": True}
ids = torch.tensor([[5, 6, 7, 8]])
model = AutoModelForCausalLM.from_pretrained(folder, **trusted)
assert type(model.config) is type(AutoConfig.from_pretrained(folder, **trusted))
backbone = AutoModel.from_pretrained(folder, **trusted)
hidden = backbone(ids).last_hidden_state
assert torch.equal(hidden @ backbone.embed_tokens.weight.T, model(ids).logits)
text = model.generate(text="The lamp", max_new_tokens=30)
assert text.startswith("The lamp")
write = pipeline("text-generation", model=folder, **trusted)
assert write("The lamp", max_new_tokens=30, do_sample=False) == [{"generated_text": text}]
model.save_pretrained(again)
AutoTokenizer.from_pretrained(folder, **trusted).save_pretrained(again)
reloaded = AutoModelForCausalLM.from_pretrained(again, attn_implementation="matmul", **trusted)
assert reloaded.generate(text="The lamp", max_new_tokens=30) == text
torch.testing.assert_close(reloaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
print(repr(text))
print(model(ids).logits.flatten().tolist())
"""


@both_families
@pytest.mark.slow
def test_a_stranger_loads_the_folder_without_this_package(
    model: Model, tokenizer: object, tmp_path: Path
) -> None:
    """The code beside the weights is enough; what the stranger saves is as good again."""
    first, again = tmp_path / "first", tmp_path / "again"
    model.save_pretrained(first)
    tokenizer.save_pretrained(first)
    finished = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(first), str(again)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    text, logits = finished.stdout.splitlines()  # and no question about trust among them
    assert text == repr(model.generate(text="The lamp", tokenizer=tokenizer, max_new_tokens=30))
    expected = model(torch.tensor([[5, 6, 7, 8]])).logits.flatten()
    torch.testing.assert_close(torch.tensor(json.loads(logits)), expected, rtol=1e-4, atol=1e-4)
    loaded = AutoModelForCausalLM.from_pretrained(again)
    assert type(loaded) is type(model)
    assert {path.name for path in again.glob("*.py")} == {path.name for path in first.glob("*.py")}
