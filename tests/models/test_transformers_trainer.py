"""Both families in the hands of transformers' Trainer: train, evaluate, predict, save, resume."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Config, Model, new_model, small_config
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lumenspark.data.tokenizer import to_transformers, train_tokenizer

every_family = pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("lumiere", {}),
        ("lumenspark", {}),
        ("lumenspark", {"projection": "position"}),
        ("lumenspark", {"k": None}),
    ],
    ids=["lumiere", "content", "position", "dense"],
)


@pytest.fixture
def config(family: str, changes: dict[str, Any]) -> Config:
    return small_config(family, dropout=0.0, **changes)


@pytest.fixture
def tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Of this test alone, because the side that it pads on is changed."""
    return to_transformers(train_tokenizer([text], 300))


@pytest.fixture
def rows(tokenizer: PreTrainedTokenizerFast, text: str) -> list[dict[str, list[int]]]:
    """Of unequal length, some past two windows."""
    return [
        {"input_ids": tokenizer(line)["input_ids"][: 8 + 4 * (number % 3)]}
        for number, line in enumerate(text.splitlines())
    ]


def trainer(
    model: Model, folder: Path, rows: Any, tokenizer: Any = None, **changes: Any
) -> Trainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 6,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "seed": 3,
    }
    more = {name: changes.pop(name) for name in ("compute_metrics", "callbacks") if name in changes}
    collator = changes.pop("data_collator", None)
    if collator is None:
        # On the left, the first token of a row would be predicted from a pad.
        tokenizer.padding_side = "right"
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(
        model=model,
        args=TrainingArguments(**settings | changes),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator,
        **more,
    )


def losses(run: Trainer) -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@every_family
def test_it_trains_evaluates_predicts_saves_and_resumes(
    config: Config, tokenizer: PreTrainedTokenizerFast, rows: Any, tmp_path: Path
) -> None:
    def accuracy(prediction: Any) -> dict[str, float]:
        logits, labels = prediction
        assert logits.shape == (len(rows), labels.shape[1], config.vocab_size)
        right = logits[:, :-1].argmax(-1) == labels[:, 1:]
        return {"accuracy": float(right[labels[:, 1:] != -100].mean())}

    def run(folder: Path, **changes: Any) -> Trainer:
        torch.manual_seed(0)
        settings = {
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_steps": 2,
            "load_best_model_at_end": True,
            "compute_metrics": accuracy,
        }
        return trainer(new_model(config), folder, rows, tokenizer, **settings | changes)

    whole = run(tmp_path / "whole")
    whole.train()
    evaluated = [entry for entry in whole.state.log_history if "eval_accuracy" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4, 6]
    assert evaluated[-1]["eval_loss"] < evaluated[0]["eval_loss"]
    assert whole.evaluate()["eval_loss"] == pytest.approx(evaluated[-1]["eval_loss"], rel=1e-4)
    predicted = whole.predict(rows)
    whole.model.eval()
    expected = whole.model(torch.tensor([rows[2]["input_ids"]])).logits[0].detach()
    np.testing.assert_allclose(predicted.predictions[2][: len(expected)], expected, atol=1e-4)

    saved = tmp_path / "whole" / "checkpoint-6"
    assert (saved / "model.safetensors").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(saved)
    assert type(loaded) is type(whole.model)

    part = run(tmp_path / "part", callbacks=[StopAfter(4)])
    part.train()
    resumed = run(tmp_path / "part")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-4)
    for weight, wanted in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-4, atol=1e-4)


@every_family
@pytest.mark.parametrize(
    "changes_of_training",
    [
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"label_smoothing_factor": 0.1},
    ],
    ids=["checkpointing", "bf16", "smoothing"],
)
@pytest.mark.slow
def test_its_settings(
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    rows: Any,
    tmp_path: Path,
    changes_of_training: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    run = trainer(new_model(config), tmp_path, rows, tokenizer, **changes_of_training)
    run.train()
    assert losses(run)[-1] < losses(run)[0]
    assert np.isfinite(run.evaluate()["eval_loss"])


@every_family
def test_smoothed_labels_are_those_of_the_next_token(
    config: Config, tokenizer: PreTrainedTokenizerFast, rows: Any, tmp_path: Path
) -> None:
    model = new_model(config).eval()
    run = trainer(model, tmp_path, rows, tokenizer, label_smoothing_factor=0.1)
    batch = run.data_collator(rows[:3])
    found = run.compute_loss(model, dict(batch))
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.1
    )
    torch.testing.assert_close(found, expected)


@every_family
def test_accumulated_gradients_are_those_of_the_whole_batch(
    config: Config, tokenizer: PreTrainedTokenizerFast, rows: Any, tmp_path: Path
) -> None:
    """Rows of unequal length weigh by their tokens, whatever step they fall into."""

    def trained(rows_at_once: int) -> tuple[list[float], Model]:
        torch.manual_seed(0)
        run = trainer(
            new_model(config),
            tmp_path,
            rows[:4],
            tokenizer,
            per_device_train_batch_size=rows_at_once,
            gradient_accumulation_steps=4 // rows_at_once,
            max_steps=2,
            optim="sgd",
            learning_rate=0.5,
            max_grad_norm=0.0,
        )
        run.train()
        return losses(run), run.model

    expected, whole = trained(4)
    found, accumulated = trained(1)
    assert found == pytest.approx(expected, rel=1e-3)
    for weight, wanted in zip(accumulated.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-3, atol=1e-4)


@every_family
def test_packed_texts_train_and_evaluate_as_padded_ones(
    config: Config, tokenizer: PreTrainedTokenizerFast, rows: Any, tmp_path: Path
) -> None:
    def run(collator: Any) -> tuple[list[float], float]:
        torch.manual_seed(0)
        packed = trainer(
            new_model(config), tmp_path, rows, tokenizer, data_collator=collator, max_steps=4
        )
        packed.train()
        return losses(packed), packed.evaluate()["eval_loss"]

    padded_losses, padded_loss = run(None)
    packed_losses, packed_loss = run(DataCollatorWithFlattening())
    assert packed_losses == pytest.approx(padded_losses, rel=1e-3)
    assert packed_loss == pytest.approx(padded_loss, rel=0.05)  # one mean by row, one by token


def test_what_it_saves_holds_the_code(
    tokenizer: PreTrainedTokenizerFast, rows: Any, tmp_path: Path
) -> None:
    run = trainer(new_model(small_config("lumenspark")), tmp_path, rows, tokenizer, max_steps=1)
    run.train()
    run.save_model(str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["auto_map"]["AutoModelForCausalLM"].startswith("modeling_lumenspark.")
    for name in (
        "modeling_lumenspark.py",
        "packing.py",
        "lowrank_attention_packed.py",
        "config_checks.py",
    ):
        assert (tmp_path / "out" / name).is_file()
