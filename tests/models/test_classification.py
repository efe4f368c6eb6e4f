"""A classifier of texts on either family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Config, Model, both_families, left_padded, random_rows, small_config
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from lumenspark.models import LumensparkForSequenceClassification, LumiereForSequenceClassification

CLASSES = {
    "lumiere": LumiereForSequenceClassification,
    "lumenspark": LumensparkForSequenceClassification,
}


@pytest.fixture
def config(family: str) -> Config:
    return small_config(family, dropout=0.0)


@both_families
def test_it_begins_from_a_language_model(
    family: str, model: Model, ids: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "language")
    classifier, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "language", num_labels=3, output_loading_info=True
    )
    assert type(classifier) is CLASSES[family]
    assert report["missing_keys"] == {"score.weight"}
    hidden = model.model(ids).last_hidden_state
    expected = hidden[:, -1] @ classifier.score.weight.T
    torch.testing.assert_close(classifier(ids).logits, expected)

    classifier.save_pretrained(tmp_path / "classifier")
    assert (tmp_path / "classifier" / "classification.py").is_file()
    for stranger in (False, True):  # with the code in the folder alone
        loaded = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "classifier", trust_remote_code=stranger
        )
        assert loaded.config.num_labels == 3
        torch.testing.assert_close(loaded(ids).logits, expected)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "classifier")
    torch.testing.assert_close(again(ids).logits, model(ids).logits)


@both_families
def test_a_row_is_read_up_to_its_last_token(family: str, config: Config) -> None:
    """By the mask, on whatever side the pads are; without one, by the pad token."""
    torch.manual_seed(0)
    classifier = CLASSES[family](config).eval()
    rows = random_rows(5, 11, 3)
    expected = torch.cat([classifier(torch.tensor([row])).logits for row in rows])
    left = left_padded(rows)
    right = {
        name: torch.stack([row.roll(len(tokens) - 11) for row, tokens in zip(values, rows)])  # noqa: B905
        for name, values in left.items()
    }
    for batch in (left, right):
        torch.testing.assert_close(classifier(**batch).logits, expected, rtol=1e-4, atol=1e-5)
    alone = classifier(input_ids=right["input_ids"]).logits
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)
    embedded = classifier.model.embed_tokens(right["input_ids"])
    logits = classifier(inputs_embeds=embedded, attention_mask=right["attention_mask"]).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@both_families
@pytest.mark.parametrize(
    ("labels", "number", "loss"),
    [
        (torch.tensor([0, 2, 1]), 3, torch.nn.functional.cross_entropy),
        (torch.tensor([0.5, -1.0, 2.0]), 1, lambda x, y: ((x[:, 0] - y) ** 2).mean()),
        (
            torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
            2,
            torch.nn.functional.binary_cross_entropy_with_logits,
        ),
    ],
    ids=["classes", "numbers", "several labels"],
)
def test_the_loss(
    family: str, config: Config, ids: torch.Tensor, labels: Any, number: int, loss: Any
) -> None:
    config.num_labels = number
    output = CLASSES[family](config)(ids, labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


@both_families
def test_the_trainer_teaches_it(
    family: str, config: Config, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Which of two tokens comes last; with accumulated gradients."""
    torch.manual_seed(0)
    rows = [
        {"input_ids": [*row, 5 + number % 2], "labels": number % 2}
        for number, row in enumerate(random_rows(*range(1, 13)))
    ]
    trainer = Trainer(
        model=CLASSES[family](config),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=40,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {
            "accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))
        },
    )
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1.0
