"""Recording: metrics are correct, and training stays identical."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL
from inspectable import hook_count, make_model
from small_models import new_model, small_config
from torch import Tensor
from torch.nn import functional

from lumenspark import load, pipeline
from lumenspark.errors import UserError
from lumenspark.inspect import head_scores
from lumenspark.inspect.recording import Recorder, recorded_series
from lumenspark.recipe import Recipe, load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run, new_run
from lumenspark.training.losses import make_loss
from lumenspark.training.setup import set_up
from lumenspark.training.step import StepResult
from lumenspark.training.trainer import Trainer

RECORDED = {"inspect.every": 5}


def recipe(text_folder: Path, name: str = "lumiere-tiny", **more: Any) -> Recipe:
    changes = SMALL | {"data": str(text_folder), "inspect.every": 0} | more
    return with_overrides(load_recipe(name), changes)


def lines(run: Run) -> Iterator[dict[str, Any]]:
    """The metrics without timings."""
    for line in run.metrics():
        yield {key: value for key, value in line.items() if "second" not in key}


def weights(run: Run) -> bytes:
    return (run.checkpoint("last") / "model.safetensors").read_bytes()


def test_recording_leaves_every_bit_of_a_training_as_it_is(
    own_runs: Path, text_folder: Path
) -> None:
    plain = pipeline.train(recipe(text_folder, **{"model.dropout": 0.1}))
    looked = pipeline.train(recipe(text_folder, **{"model.dropout": 0.1} | RECORDED))
    assert weights(plain) == weights(looked)
    recorded = [line for line in lines(looked) if "induction/0.0" in line]
    assert [line["step"] for line in recorded] == [5, 10, 12]
    assert [line for line in lines(looked) if line not in recorded] == list(lines(plain))
    assert (looked.path / "inspect.html").is_file()
    assert not (plain.path / "inspect.html").exists()


def test_the_last_record_describes_the_last_weights(own_runs: Path, text_folder: Path) -> None:
    run = pipeline.train(recipe(text_folder, **RECORDED))
    last = [line for line in lines(run) if "induction/0.0" in line][-1]
    model, _ = load(str(run.path), checkpoint="last")
    scores = head_scores(model, rows=4).scores
    for name, layers in scores.items():
        for layer, heads in enumerate(layers.tolist()):
            for head, value in enumerate(heads):
                assert last[f"{name}/{layer}.{head}"] == pytest.approx(value, abs=1e-5)


def test_a_resumed_run_records_the_same(own_runs: Path, text_folder: Path) -> None:
    whole = pipeline.train(recipe(text_folder, **RECORDED))
    reporter = Reporter()
    setup = set_up(recipe(text_folder, **RECORDED), reporter)
    trainer = Trainer(setup, reporter)
    run = new_run(setup.recipe, pipeline.environment_of(setup))
    update, calls = trainer.update, iter(range(100))

    def stopping(step: int, lr_scale: float) -> StepResult:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return update(step, lr_scale)

    trainer.update = stopping  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train(run)
    assert list(lines(pipeline.resume(str(run.path)))) == list(lines(whole))


@pytest.fixture
def step(ids: Tensor) -> tuple[Recorder, dict[str, float], dict[str, Tensor]]:
    """A recorder, its metrics of one SGD step, and the weights before the step."""
    model = make_model("lumiere").train()
    recorder = Recorder(model, ids)
    recorder.before_step()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    make_loss(model, "cpu", bf16=False)(ids).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.01 * weight.grad
            weight.grad *= 0.5  # as if clipped
    return recorder, recorder.record(gradient_scale=2.0), before


Step = tuple[Recorder, dict[str, float], dict[str, Tensor]]


def test_a_record_leaves_the_model_as_it_was(step: Step) -> None:
    recorder, _, _ = step
    assert recorder.model.training
    assert hook_count(recorder.model) == 0


def test_gradients_and_updates_are_those_of_the_step(step: Step) -> None:
    recorder, figures, before = step
    for part, inside in (("embed", "embed_tokens"), ("blocks.1", "layers.1."), ("other", None)):
        named = {
            name: weight
            for name, weight in recorder.model.named_parameters()
            if (inside and inside in name)
            or (not inside and ("embed_positions" in name or name == "model.norm.weight"))
        }
        squares = sum(float((2 * weight.grad).square().sum()) for weight in named.values())
        assert figures[f"gradient norm/{part}"] == pytest.approx(squares**0.5, rel=1e-4)
        moved = sum(float((w.detach() - before[name]).square().sum()) for name, w in named.items())
        size = sum(float(before[name].square().sum()) for name in named)
        assert figures[f"update/{part}"] == pytest.approx((moved / size) ** 0.5, rel=1e-4)


def test_the_lens_and_the_streams_size(step: Step, ids: Tensor) -> None:
    recorder, figures, _ = step
    model = recorder.model.eval()
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        middle = model.lm_head(model.model.norm(out.hidden_states[1]))
    for name, logits in (("blocks.0.residual", middle), ("blocks.1.residual", out.logits)):
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        assert figures[f"lens loss/{name}"] == pytest.approx(float(loss), rel=1e-4)
    size = out.hidden_states[1].square().mean().sqrt()
    assert figures["residual norm/blocks.0.residual"] == pytest.approx(float(size), rel=1e-4)


@pytest.mark.parametrize("kind", ["content", "dense", "window alone"])
def test_the_other_family_is_recorded_too(kind: str, ids: Tensor) -> None:
    model = make_model(kind)
    recorder = Recorder(model, ids)
    recorder.before_step()
    model(ids, labels=ids).loss.backward()
    figures = recorder.record(1.0)
    assert figures["update/blocks.0"] == 0
    assert figures["gradient norm/blocks.0"] > 0
    assert 0 <= figures["attention sink/1.3"] <= 1


def test_series_are_what_the_metrics_hold() -> None:
    metrics = [
        {"step": 5, "tokens": 50, "loss": 3.0},
        {"step": 5, "tokens": 50, "induction/0.1": 0.25, "update/embed": 0.5, "seconds": 1.0},
        {"step": 10, "tokens": 100, "induction/0.1": 0.75},
    ]
    assert recorded_series(metrics) == {
        "induction": {"0.1": ([5, 10], [0.25, 0.75])},
        "update": {"embed": ([5], [0.5])},
    }
    assert recorded_series(metrics[:1]) == {}


def test_a_context_too_short_to_repeat_anything_is_an_error_at_once() -> None:
    model = new_model(small_config("lumiere", max_position_embeddings=4))
    with pytest.raises(UserError, match="repeated tokens: choose"):
        Recorder(model, torch.tensor([[1, 2, 3]]))


def test_weights_that_are_all_zero_do_not_stop_a_training(ids: Tensor) -> None:
    model = make_model("lumiere")
    with torch.no_grad():
        for weight in model.model.layers[0].parameters():
            weight.zero_()
    recorder = Recorder(model, ids)
    recorder.before_step()
    model(ids, labels=ids).loss.backward()
    assert recorder.record(1.0)["update/blocks.0"] == 0
