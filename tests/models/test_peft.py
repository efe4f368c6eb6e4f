"""peft as its users call it: LoRA by the names of layers, prompt tuning and prefix tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from small_models import (
    Config,
    Model,
    both_families,
    fill_with_noise,
    low_rank_attention,
    new_model,
    small_config,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from lumenspark.models.lowrank_linear import LowRankLinear

dense_attention = pytest.mark.parametrize(
    ("family", "changes"), [("lumiere", {}), ("lumenspark", {"k": None})], ids=["lumiere", "k=None"]
)


@pytest.fixture
def config(family: str, changes: dict[str, Any]) -> Config:
    return small_config(family, dropout=0.0, **changes)


def train(adapted: Any, ids: Tensor, steps: int = 6) -> list[float]:
    """The loss before each step."""
    adapted.train()
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    adapted.eval()
    return losses


@both_families
@pytest.mark.parametrize("names", [["q_proj", "v_proj"], r".*\.(k|o|down)_proj"], ids=str)
def test_lora_on_layers_by_name(model: Model, ids: Tensor, tmp_path: Path, names: Any) -> None:
    model.save_pretrained(tmp_path / "base")
    ranks = {name: m.rank for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=names, task_type="CAUSAL_LM", init_lora_weights=False)
    )
    trainable = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(trainable) == 2 * 2 * (2 if names == ["q_proj", "v_proj"] else 3)
    losses = train(adapted, ids)
    assert losses[-1] < losses[0]
    logits = adapted(ids).logits
    adapted.save_pretrained(tmp_path / "adapter")

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    untouched = base(ids).logits
    assert not torch.allclose(untouched, logits, atol=1e-2)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(loaded(ids).logits, logits)
    with loaded.disable_adapter():
        torch.testing.assert_close(loaded(ids).logits, untouched)
    loaded.merge_adapter()
    torch.testing.assert_close(loaded(ids).logits, logits, rtol=1e-3, atol=1e-3)
    loaded.unmerge_adapter()
    merged = loaded.merge_and_unload()
    assert type(merged) is type(model)
    torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-3, atol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(ids).logits, merged(ids).logits)
    assert ranks == {n: m.rank for n, m in again.named_modules() if isinstance(m, LowRankLinear)}


@both_families
def test_two_adapters_by_name(model: Model, ids: Tensor) -> None:
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]), "first")
    adapted.add_adapter("second", LoraConfig(r=3, target_modules=["q_proj"]))
    for name in ("first", "second"):
        adapted.set_adapter(name)
        losses = train(adapted, ids)
        assert losses[-1] < losses[0]
    second = adapted(ids).logits
    adapted.set_adapter("first")
    first = adapted(ids).logits
    assert not torch.allclose(first, second, atol=1e-3)
    adapted.delete_adapter("second")
    torch.testing.assert_close(adapted(ids).logits, first)


@both_families
def test_another_kind_of_adapter_by_name(model: Model, ids: Tensor) -> None:
    config = IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[])
    adapted = get_peft_model(model, config)
    losses = train(adapted, ids)
    assert losses[-1] < losses[0]
    logits = adapted(ids).logits
    torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, logits, rtol=1e-3, atol=1e-3)


def test_the_adapters_of_transformers_by_name(ids: Tensor) -> None:
    model = fill_with_noise(new_model(small_config("lumenspark"))).eval()
    expected = model(ids).logits
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert not torch.allclose(model(ids).logits, expected, atol=1e-3)
    model.disable_adapters()
    torch.testing.assert_close(model(ids).logits, expected)


@both_families
def test_prompt_tuning(model: Model, ids: Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base")
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    losses = train(adapted, ids)
    assert losses[-1] < losses[0]
    adapted.save_pretrained(tmp_path / "prompt")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "prompt")
    torch.testing.assert_close(loaded(input_ids=ids).logits, adapted(input_ids=ids).logits)
    made = adapted.generate(input_ids=ids[:, :4], max_new_tokens=5)
    assert torch.equal(loaded.generate(input_ids=ids[:, :4], max_new_tokens=5), made)


def assert_generates_what_it_computes(adapted: Any, ids: Tensor) -> None:
    """Greedy text, with a cache, up to the end of the context; past it a sentence says why not."""
    context, virtual = adapted.config.max_position_embeddings, 3
    new = context - virtual - ids.shape[1]
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    made = adapted.generate(input_ids=ids, max_new_tokens=new, **settings)
    with torch.no_grad():
        likeliest = adapted(input_ids=made[:, :-1]).logits[:, ids.shape[1] - 1 :].argmax(-1)
    assert torch.equal(made[:, ids.shape[1] :], likeliest[:, -new:])
    for mask in (torch.ones_like(ids), 1 - torch.eye(*ids.shape, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"context length .* \(peft\), ask for fewer"):
            adapted.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=2 * context, **settings
            )


@both_families
def test_text_after_a_learned_prompt(model: Model, ids: Tensor) -> None:
    adapted = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    assert_generates_what_it_computes(adapted.eval(), ids[:, :4])


@dense_attention
def test_prefix_tuning(model: Model, ids: Tensor) -> None:
    adapted = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    before = adapted(input_ids=ids).logits
    losses = train(adapted, ids)
    assert losses[-1] < losses[0]
    assert not torch.allclose(adapted(input_ids=ids).logits, before, atol=1e-3)
    assert_generates_what_it_computes(adapted, ids[:, :4])


@pytest.mark.parametrize("family", ["lumenspark"])
@low_rank_attention
def test_prefix_tuning_of_low_rank_attention_is_refused(model: Model, ids: Tensor) -> None:
    adapted = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"low-rank attention .* prefix tuning"):
        adapted(input_ids=ids)
    with pytest.raises(ValueError, match=r"low-rank attention .* prefix tuning"):
        adapted.generate(input_ids=ids)
