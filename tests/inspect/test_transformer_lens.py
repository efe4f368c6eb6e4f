"""Our models in TransformerLens: discovery, equal logits, effective hooks."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    ATTENTIONS,
    Model,
    fill_with_noise,
    low_rank_attention,
    new_model,
    small_config,
)
from torch import Tensor

import lumenspark
from lumenspark.errors import UserError
from lumenspark.inspect import trace
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.transformer_lens_names import counterparts, nearest_tensors

pytest.importorskip("transformer_lens", reason="needs the extra transformer-lens")

TEXTS = ["The execution of a module's code object.", "A class"]
HEAD = 2  # of four

# TransformerLens scales the scores where we scale the queries: float32 logits, of deviation 2,
# and inner tensors differ by up to 1.5e-5.
close = {"rtol": 0.0, "atol": 5e-5}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lumiere": ("lumiere", {}),
    "lumiere, low-rank layers": (
        "lumiere",
        {"module_ranks": {"model.layers.0.self_attn.o_proj": 8, "model.layers.1.mlp.up_proj": 8}},
    ),
    **{f"lumenspark, {name}": ("lumenspark", changes) for name, changes in ATTENTIONS.items()},
    "lumenspark, biases": (
        "lumenspark",
        {
            "k": None,
            "rank": None,
            "attention_bias": True,
            "head_bias": True,
            "tie_word_embeddings": False,
        },
    ),
}


def noisy(family: str, **changes: Any) -> Model:
    """In evaluation mode, with random weights."""
    return fill_with_noise(new_model(small_config(family, **changes))).eval()


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    family, changes = request.param
    return noisy(family, **changes)


@pytest.fixture
def bridge(model: Model) -> Any:
    return bridge_of(model)


def bridge_of(model: Model) -> Any:
    """By TransformerLens' function for a model in memory, which modifies its argument."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    given = copy.deepcopy(model)
    return build_bridge_from_module(given, type(model).__name__, hf_config=given.config)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run, made noisy: after twelve steps its heads would do next to nothing.

    ``trained`` is a run with dropout 0; here, as in Lumiére-1M, the config has some.
    """
    folder = tmp_path_factory.mktemp("checkpoint")
    model, tokenizer = lumenspark.load(str(trained))
    model.config.dropout = 0.1
    fill_with_noise(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def booted(folder: Path) -> Any:
    """By TransformerLens' documented call."""
    from transformer_lens import TransformerBridge

    import lumenspark.inspect.transformer_lens_adapter  # noqa: F401

    return TransformerBridge.boot_transformers(str(folder), device="cpu")


BY_ENTRY_POINTS = """
import sys
from transformer_lens import TransformerBridge
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
ArchitectureAdapterFactory.discover_entry_points()
bridge = TransformerBridge.boot_transformers(sys.argv[1], device="cpu")
print(tuple(bridge.to_tokens("A class")[0].tolist()))
"""


@pytest.mark.slow
def test_a_folder_is_booted_once_transformer_lens_has_asked_its_entry_points(
    folder: Path, booted: Any
) -> None:
    """In a program without imports from this package."""
    done = subprocess.run(
        [sys.executable, "-c", BY_ENTRY_POINTS, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tokens = tuple(booted.to_tokens("A class")[0].tolist())
    assert done.stdout.splitlines()[-1] == str(tokens)


def attention_of(block: Any) -> Any:
    return block.self_attn if hasattr(block, "self_attn") else block.attention


def with_changed_mix(
    model: Model, ids: Tensor, change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The logits with the mixed values (B, T, D) of head 2 in the last block changed.

    ``change`` gets that and the head's values (B, T, D). In plain torch, by hooks of its own.
    """
    attention = attention_of(model.model.layers[-1])
    columns = slice(HEAD * attention.head_dim, (HEAD + 1) * attention.head_dim)
    values = {}

    def keep(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        values["head"] = output[..., columns]

    def replace(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        mixed = inputs[0].clone()
        mixed[..., columns] = change(mixed[..., columns], values["head"])
        return (mixed,)

    with (
        attention.v_proj.register_forward_hook(keep),
        attention.o_proj.register_forward_pre_hook(replace),
    ):
        return model(ids).logits


def test_a_folder_of_a_run_is_booted_and_reads_text(folder: Path, booted: Any) -> None:
    model, tokenizer = lumenspark.load(str(folder))
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    assert torch.equal(booted.to_tokens(TEXTS[0]), ids)
    torch.testing.assert_close(booted(TEXTS[0]), model(ids).logits, **close)
    torch.testing.assert_close(
        booted(TEXTS[0], return_type="loss"), model(ids, labels=ids).loss, **close
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_texts_have_the_logits_of_each_alone(folder: Path, booted: Any, side: str) -> None:
    model, tokenizer = lumenspark.load(str(folder))
    present = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")[
        "attention_mask"
    ].bool()
    logits = booted(TEXTS, padding_side=side)
    for row, text in enumerate(TEXTS):
        alone = model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0]
        torch.testing.assert_close(logits[row][present[row]], alone, **close)


def test_booted_generates_the_same_text(folder: Path, booted: Any) -> None:
    model, tokenizer = lumenspark.load(str(folder))
    ids = tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    settings = {"max_new_tokens": 12, "do_sample": False, "verbose": False}
    for cached in (True, False):
        generated = booted.generate(
            ids, use_past_kv_cache=cached, stop_at_eos=False, return_type="tokens", **settings
        )
        assert torch.equal(generated, expected)


def test_the_entry_points_name_the_adapters(model: Model) -> None:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    config = TransformerBridgeConfig(
        d_model=32, d_head=8, n_layers=2, n_ctx=16, architecture=type(model).__name__
    )
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    assert type(adapter).__module__ == "lumenspark.inspect.transformer_lens_adapter"


def test_a_bridge_is_built_without_a_warning_and_knows_the_sizes(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of names that lead nowhere
        bridge = bridge_of(model)
        bridge(torch.arange(3, 9)[None])
    config = bridge.cfg
    assert (config.n_layers, config.n_heads, config.d_model, config.d_head) == (2, 4, 32, 8)
    assert config.n_ctx == model.config.max_position_embeddings == len(bridge.W_pos)
    assert config.d_vocab == 300
    assert config.d_mlp == bridge.W_in.shape[-1]
    assert config.act_fn == ("silu" if model.config.model_type == "lumiere" else "gelu")


def test_nothing_of_ours_loads_transformer_lens() -> None:
    code = """
import importlib, pkgutil, sys
import lumenspark
for module in pkgutil.walk_packages(lumenspark.__path__, "lumenspark."):
    if not module.name.endswith((".__main__", ".transformer_lens_adapter")):
        importlib.import_module(module.name)
assert "transformer_lens" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_logits(model: Model, bridge: Any, ids: Tensor) -> None:
    torch.testing.assert_close(bridge(ids), model(ids).logits, **close)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "matmul", "flex_attention"])
def test_logits_whatever_attention_the_model_used(implementation: str, ids: Tensor) -> None:
    model = noisy("lumiere")
    expected = model(ids).logits
    model.set_attn_implementation(implementation)
    torch.testing.assert_close(bridge_of(model)(ids), expected, **close)


def test_logits_of_padded_rows(model: Model, bridge: Any, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[2, :1] = 0
    logits, expected = bridge(ids, attention_mask=mask), model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], **close)


def test_training_gradients(model: Model, bridge: Any, ids: Tensor) -> None:
    bridge(ids, return_type="loss").backward()
    model(ids, labels=ids).loss.backward()
    table = model.get_input_embeddings().weight
    torch.testing.assert_close(bridge.embed.weight.grad, table.grad, rtol=0, atol=5e-6)


def test_the_cache_holds_what_its_names_say(model: Model, bridge: Any, ids: Tensor) -> None:
    expected = model(ids, output_attentions=True, output_hidden_states=True)
    _, cache = bridge.run_with_cache(ids)
    for layer in range(2):
        torch.testing.assert_close(cache["pattern", layer], expected.attentions[layer], **close)
        torch.testing.assert_close(
            cache["resid_pre", layer], expected.hidden_states[layer], **close
        )
        block = f"blocks.{layer}"
        mixed = cache[f"{block}.attn.hook_z"]  # (B, T, H, D)
        values = cache[f"{block}.attn.hook_v"]
        remixed = torch.einsum("bhts,bshd->bthd", expected.attentions[layer], values)
        torch.testing.assert_close(mixed, remixed, **close)
        added = torch.einsum("bthd,hde->bte", mixed, bridge.W_O[layer])
        if (bias := bridge.blocks[layer].attn.b_O) is not None:
            added = added + bias
        torch.testing.assert_close(cache["attn_out", layer], added, **close)
        after = cache["resid_pre", layer] + cache["attn_out", layer] + cache["mlp_out", layer]
        torch.testing.assert_close(cache["resid_post", layer], after, **close)


# In TransformerLens' cache, but not in the table: ids, positions, and second names in some models.
NOT_IN_TABLE = ("embed.hook_in", "ln_final.hook_in", "attn.o.hook_out")


def test_their_cache_holds_our_tensors_under_the_names_of_our_table(
    model: Model, bridge: Any, ids: Tensor
) -> None:
    low_rank = getattr(model.config, "k", None) is not None
    if not low_rank:
        bridge.set_use_attn_result(True)
    _, cache = bridge.run_with_cache(ids)
    ours = trace(model, ids, ["*"])
    architecture = architecture_of(model)
    equal, nearest = counterparts(architecture), nearest_tensors(architecture)
    for theirs, name in equal.items():
        if low_rank and theirs.endswith("hook_result"):
            continue  # low-rank attention of the adapter computes no results by head
        by_head = ours[name].ndim == 4 and not theirs.endswith("hook_pattern")
        expected = ours[name].transpose(1, 2) if by_head else ours[name]  # (B, T, H, D) there
        torch.testing.assert_close(
            cache[theirs], expected, **close, msg=lambda text, name=theirs: f"{name}: {text}"
        )
    known = equal.keys() | nearest.keys()
    assert not [key for key in cache if key not in known and not key.endswith(NOT_IN_TABLE)]


def test_the_embeddings_and_the_gate_have_names(ids: Tensor) -> None:
    model = noisy("lumiere")
    bridge = bridge_of(model)
    _, cache = bridge.run_with_cache(ids)
    backbone = model.model
    assert torch.equal(cache["hook_embed"], backbone.embed_tokens(ids))
    assert torch.equal(cache["hook_pos_embed"][0], backbone.embed_positions.weight[:11])
    assert bridge.cfg.d_mlp == cache["blocks.0.mlp.hook_post"].shape[-1] == 32
    gate, up = cache["blocks.0.mlp.hook_pre"], cache["blocks.0.mlp.hook_pre_linear"]
    torch.testing.assert_close(cache["blocks.0.mlp.hook_post"], gate * gate.sigmoid() * up, **close)


def test_a_head_is_taken_away(model: Model, bridge: Any, ids: Tensor) -> None:
    def zero(mixed: Tensor, hook: Any) -> Tensor:
        mixed = mixed.clone()
        mixed[:, :, HEAD] = 0
        return mixed

    logits = bridge.run_with_hooks(ids, fwd_hooks=[("blocks.1.attn.hook_z", zero)])
    expected = with_changed_mix(model, ids, lambda mixed, values: torch.zeros_like(mixed))
    torch.testing.assert_close(logits, expected, **close)
    assert not torch.allclose(logits, model(ids).logits, atol=0.1)
    torch.testing.assert_close(bridge(ids), model(ids).logits, **close)  # nothing of it stays


def test_a_changed_pattern_changes_what_is_mixed(model: Model, bridge: Any, ids: Tensor) -> None:
    def look_at_the_first(pattern: Tensor, hook: Any) -> Tensor:
        pattern = pattern.clone()
        pattern[:, HEAD] = 0
        pattern[:, HEAD, :, 0] = 1
        return pattern

    logits = bridge.run_with_hooks(
        ids, fwd_hooks=[("blocks.1.attn.hook_pattern", look_at_the_first)]
    )
    expected = with_changed_mix(model, ids, lambda mixed, values: values[:, :1].expand_as(mixed))
    torch.testing.assert_close(logits, expected, **close)
    assert not torch.allclose(logits, model(ids).logits, atol=0.1)


def test_activation_patching(model: Model, bridge: Any, ids: Tensor) -> None:
    """Patch the clean residual stream into another text at each layer and position."""
    from transformer_lens.patching import get_act_patch_resid_pre

    clean, corrupted = ids[:1], ids[1:2]
    _, cache = bridge.run_with_cache(clean)
    effects = get_act_patch_resid_pre(bridge, corrupted, cache, lambda logits: logits[0, -1, 7])
    states = model(clean, output_hidden_states=True).hidden_states
    for layer, position in ((0, 3), (1, 3), (1, 10)):
        vector = states[layer][:, position]

        def replace(
            module: torch.nn.Module, inputs: Any, position: int = position, vector: Tensor = vector
        ) -> Any:
            stream = inputs[0].clone()
            stream[:, position] = vector
            return (stream, *inputs[1:])

        with model.model.layers[layer].register_forward_pre_hook(replace):
            expected = model(corrupted).logits[0, -1, 7]
        torch.testing.assert_close(effects[layer, position], expected, **close)


@pytest.mark.parametrize("unit", ["component", "head"])
def test_direct_logit_attribution_sums_to_the_logits(
    model: Model, bridge: Any, ids: Tensor, unit: str
) -> None:
    from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution

    bridge.enable_compatibility_mode(disable_warnings=True)
    parts = direct_logit_attribution(bridge, ids[:1], 7, 9, unit=unit).attribution
    logits = model(ids[:1]).logits[0, -1]
    from_bias = bridge.b_U[7] - bridge.b_U[9]
    torch.testing.assert_close(
        parts.sum().squeeze() + from_bias, logits[7] - logits[9], rtol=0, atol=5e-5
    )


def test_gradients_reach_the_backward_hooks(model: Model, bridge: Any, ids: Tensor) -> None:
    states = model(ids, labels=ids, output_hidden_states=True)
    (expected,) = torch.autograd.grad(states.loss, states.hidden_states[1])
    seen = {}
    name = "blocks.0.hook_resid_post"
    with bridge.hooks(bwd_hooks=[(name, lambda gradient, hook: seen.update({name: gradient}))]):
        bridge(ids, return_type="loss").backward()
    torch.testing.assert_close(seen[name], expected, rtol=0, atol=5e-6)


def test_generates_the_same_tokens(model: Model, bridge: Any, ids: Tensor) -> None:
    settings = {"max_new_tokens": 6, "do_sample": False}
    generated = bridge.generate(
        ids, stop_at_eos=False, verbose=False, return_type="tokens", **settings
    )
    assert torch.equal(generated, model.generate(ids, **settings))


def test_processed_weights_give_the_same_probabilities(
    model: Model, bridge: Any, ids: Tensor
) -> None:
    bridge.enable_compatibility_mode(disable_warnings=True)
    torch.testing.assert_close(
        bridge(ids).log_softmax(-1), model(ids).logits.log_softmax(-1), **close
    )


def test_dropout_works_in_training(ids: Tensor) -> None:
    """0.5 on the attention weights alone, which become zero or double."""
    bridge = bridge_of(noisy("lumiere", dropout=0.5))
    _, cache = bridge.run_with_cache(ids)
    kept = cache["pattern", 0]
    bridge.train()
    torch.manual_seed(0)
    _, cache = bridge.run_with_cache(ids)
    dropped = cache["pattern", 0][:, :, 0, 0]  # the first token sees only itself: 1, whatever it is
    assert torch.equal(kept[:, :, 0, 0], torch.ones_like(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


@low_rank_attention
def test_low_rank_attention_says_what_it_cannot(changes: dict[str, Any], ids: Tensor) -> None:
    bridge = bridge_of(noisy("lumenspark", **changes))
    for name in ("hook_attn_scores", "hook_q_input"):  # which would never be called
        assert f"blocks.0.attn.{name}" not in bridge.hook_dict
    with pytest.raises(UserError, match="give no cache"):
        bridge.original_model(ids, use_cache=True)
    with pytest.raises(NotImplementedError):
        bridge.set_use_split_qkv_input(True)
