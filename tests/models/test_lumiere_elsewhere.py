"""Lumiére in the hands of what knows nothing of it: peft, lm_eval, Trainer, compile, export.

What Lumenspark does in the same way is tested with both.
"""

import json
from pathlib import Path

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, PeftModel, get_peft_model
from small_models import Config, Model, both_families, fill_with_noise, new_model, plain_logits
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from lumenspark.models import LumiereForCausalLM


def lora() -> LoraConfig:
    """A new one for each model, because peft writes the names of its layers into it."""
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@both_families
def test_lora_trains_its_adapters_alone_and_merges_into_the_weights(
    model: Model, ids: Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "base")
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    layers = sum(isinstance(module, nn.Linear) for module in model.model.modules())
    adapted = get_peft_model(model, lora())
    trainable = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len(trainable) == 2 * layers
    optimizer = torch.optim.AdamW([w for w in adapted.parameters() if w.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for name, weight in adapted.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, base[name.replace(".base_layer", "")])

    adapted.eval()
    logits = adapted(ids).logits
    with adapted.disable_adapter():
        untouched = adapted(ids).logits
    assert not torch.allclose(logits, untouched, atol=1e-3)
    expected = torch.stack([plain_logits(loaded_base(tmp_path), row) for row in ids])
    torch.testing.assert_close(untouched, expected, rtol=1e-4, atol=1e-4)
    made = adapted.generate(input_ids=ids, max_new_tokens=20)
    assert made.shape == (3, 31)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(loaded_base(tmp_path), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(ids).logits, logits)
    merged = loaded.merge_and_unload()
    assert type(merged) is type(model)
    torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(merged.generate(ids, max_new_tokens=20), made)


def loaded_base(folder: Path) -> Model:
    return AutoModelForCausalLM.from_pretrained(folder / "base")


@both_families
def test_lora_with_gradient_checkpointing(model: Model, ids: Tensor) -> None:
    adapted = get_peft_model(model, lora())
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    adapted.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)


TASK = """
task: harbour
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{file}"}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
QUESTIONS = [
    {"question": "The lamp is lit at", "choices": ["dusk", "noon"], "answer": 0},
    {"question": "In fog the keeper rings a", "choices": ["ring", "bell"], "answer": 1},
    {"question": "Ships that come from the south hear", "choices": ["it", "fog"], "answer": 0},
]


@both_families
@pytest.mark.slow
def test_lm_eval_scores_a_local_task_as_plain_torch_does(
    config: Config, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config.max_position_embeddings = 64
    model = fill_with_noise(new_model(config)).eval()
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "harbour.yaml").write_text(TASK.format(file=data))
    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2),
        tasks=["harbour"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )

    def log_p(question: str, choice: str) -> float:
        asked = tokenizer(question)["input_ids"]
        ids = tokenizer(f"{question} {choice}")["input_ids"]
        log_p = plain_logits(model, ids).log_softmax(-1)
        return float(sum(log_p[t - 1, ids[t]] for t in range(len(asked), len(ids))))

    right = 0
    for sample, question in zip(results["samples"]["harbour"], QUESTIONS, strict=True):
        expected = [log_p(question["question"], choice) for choice in question["choices"]]
        given = [float(response[0]) for response in sample["filtered_resps"]]
        assert given == pytest.approx(expected, abs=1e-3)
        right += expected.index(max(expected)) == question["answer"]
    assert results["results"]["harbour"]["acc,none"] == pytest.approx(right / 3)


@both_families
@pytest.mark.slow
def test_the_trainer_of_transformers_trains_it(
    config: Config, tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = new_model(config)
    rows = [{"input_ids": tokenizer(line)["input_ids"][:16]} for line in text.splitlines()]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=20,
            learning_rate=1e-2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(5.7, abs=0.2)  # ln 300: a fresh model knows nothing
    assert losses[-1] < 5.0
    trainer.save_model(str(tmp_path / "trained"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    ids = torch.tensor([rows[0]["input_ids"]])
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["sdpa", "matmul"])
def test_compiled_as_one_graph_it_computes_the_same(
    model: LumiereForCausalLM, ids: Tensor, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    model.config.dropout = 0.0
    model.train()
    expected = model(ids, labels=ids)
    gradients = torch.autograd.grad(expected.loss, list(model.parameters()))
    compiled = torch.compile(model, fullgraph=True)
    output = compiled(ids, labels=ids)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    again = torch.autograd.grad(output.loss, list(model.parameters()))
    for gradient, wanted in zip(again, gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


def test_it_can_be_exported(model: LumiereForCausalLM, ids: Tensor) -> None:
    length = torch.export.Dim("length", min=2, max=16)
    program = torch.export.export(
        model,
        (ids,),
        {"use_cache": False},
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None},
        strict=False,
    )
    for width in (11, 4):
        exported = program.module()(ids[:, :width], use_cache=False)
        torch.testing.assert_close(
            exported.logits, model(ids[:, :width]).logits, rtol=1e-4, atol=1e-4
        )
