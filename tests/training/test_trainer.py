"""What happens around a step: going back, stopping early, averaging, budgets, full disks."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import lumenspark
from safetensors.torch import load_file
from small_training import Collected, rollbacks, small, trainer_of

from lumenspark import pipeline
from lumenspark.errors import UserError
from lumenspark.loading import load
from lumenspark.recipe import OptimOptions, Recipe, with_overrides
from lumenspark.runs import checkpoint
from lumenspark.runs.run import Run, new_run
from lumenspark.training.budget import fit_budget
from lumenspark.training.lr_schedule import lr_factor
from lumenspark.training.optimizers import build_optimizers
from lumenspark.training.setup import set_up
from lumenspark.training.step import StepResult
from lumenspark.training.timing import seconds_per_step
from lumenspark.training.trainer import Trainer


def failing_at(trainer: Trainer, steps: set[int]) -> None:
    """Make the loss of the given calls not a number, each once."""
    loss, calls = trainer.loss, iter(range(10_000))

    def sometimes(windows: torch.Tensor, samples: torch.Tensor | None = None) -> torch.Tensor:
        value = loss(windows, samples)
        return value * float("nan") if next(calls) in steps else value

    trainer.loss = sometimes


def test_a_step_that_is_not_finite_goes_back_and_lowers_the_rate(
    text_folder: Path, own_runs: Path
) -> None:
    trainer, reporter = trainer_of(small(text_folder))
    failing_at(trainer, {7})
    run = new_run(trainer.recipe)
    trainer.train(run)
    (event,) = rollbacks(run)
    assert (event["step"], event["to_step"], event["lr_scale"]) == (7, 6, 0.5)
    assert any(
        "back to step 6, at 0.5 times the learning rate" in each for each in reporter.sentences
    )
    assert checkpoint.checkpoint_step(run.checkpoint("last")) == 12
    weights = load_file(run.checkpoint("last") / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_metrics_keep_the_event_and_forget_what_was_undone(
    text_folder: Path, own_runs: Path
) -> None:
    trainer, _ = trainer_of(small(text_folder))
    failing_at(trainer, {8, 10})  # both times after the checkpoint of step 6
    run = new_run(trainer.recipe)
    trainer.train(run)
    assert [line["lr_scale"] for line in rollbacks(run)] == [0.5, 0.25]
    steps = [line["step"] for line in run.metrics() if "loss" in line]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_weights_that_overflow_are_not_saved(text_folder: Path, own_runs: Path) -> None:
    trainer, _ = trainer_of(small(text_folder))
    update, calls = trainer.update, iter(range(1000))

    def overflowing(step: int, lr_scale: float) -> StepResult:
        result = update(step, lr_scale)
        if next(calls) == 5:  # the step whose weights would be saved as step 6
            trainer.parameters[0].data.fill_(float("inf"))
        return result

    trainer.update = overflowing  # type: ignore[method-assign]
    run = new_run(trainer.recipe)
    trainer.train(run)
    assert [line["to_step"] for line in rollbacks(run)] == [3]
    weights = load_file(run.checkpoint("last") / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_a_validation_that_is_not_a_number_is_not_the_best(
    text_folder: Path, own_runs: Path
) -> None:
    trainer, _ = trainer_of(small(text_folder))
    losses = iter([float("nan"), 3.0, 2.0])
    trainer.validation_loss = lambda: next(losses)  # type: ignore[method-assign]
    run = new_run(trainer.recipe)
    state = trainer.train(run).state
    assert (state.best_loss, state.best_step) == (2.0, 12)


def test_two_processes_cannot_train_one_run(copied: Path) -> None:
    with Run(copied).locked():
        done = lumenspark("resume", copied.name, env=dict(os.environ))
    assert done.returncode == 2
    assert "is being trained by another process" in done.stderr


def test_after_the_third_time_it_stops_and_shows_the_batch(
    text_folder: Path, own_runs: Path
) -> None:
    trainer, _ = trainer_of(small(text_folder))
    failing_at(trainer, {4, 6, 8})
    run = new_run(trainer.recipe)
    with pytest.raises(UserError, match="not finite, for the 3rd time"):
        trainer.train(run)
    batch = json.loads((run.path / "failed-batch.json").read_text())
    assert len(batch["input_ids"]) == len(batch["text"]) == 4
    assert checkpoint.verify_checkpoint(run.checkpoint("last")) is None


def test_rates_far_too_high_end_with_a_sentence(text_folder: Path, own_runs: Path) -> None:
    recipe = small(text_folder, optim__adamw_lr=1e36, optim__muon_lr=1e36)
    with pytest.raises(UserError, match="try lower learning rates"):
        pipeline.train(recipe, reporter=Collected())


def test_early_stopping(text_folder: Path, own_runs: Path) -> None:
    # A rate of almost nothing: no validation is better than the first by chance alone.
    recipe = small(
        text_folder,
        train__early_stopping_patience=2,
        train__steps=60,
        train__validate_every=2,
        optim__muon_lr=1e-30,
        optim__adamw_lr=1e-30,
    )
    trainer, _ = trainer_of(recipe)
    run = new_run(trainer.recipe)
    assert trainer.train(run).state.step == 6
    assert checkpoint.checkpoint_step(run.checkpoint("last")) == 6
    assert checkpoint.checkpoint_step(run.checkpoint("best")) == 2


def test_the_average_is_what_is_kept(text_folder: Path, own_runs: Path) -> None:
    recipe = small(text_folder, train__ema_decay=0.5, train__steps=3)
    trainer, _ = trainer_of(recipe)
    expected = [parameter.detach().clone() for parameter in trainer.parameters]
    original = trainer.update

    def update_and_average(step: int, lr_scale: float) -> StepResult:
        result = original(step, lr_scale)
        for mean, parameter in zip(expected, trainer.parameters, strict=True):
            decay = min(0.5, (step + 1) / (step + 10))
            mean.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
        return result

    trainer.update = update_and_average  # type: ignore[method-assign]
    run = new_run(trainer.recipe)
    trainer.train(run)
    stored = load_file(run.checkpoint("last") / "model.safetensors")
    names = [name for name, _ in trainer.model.named_parameters()]
    for name, mean in zip(names, expected, strict=True):
        torch.testing.assert_close(stored[name], mean)


def test_accumulation_is_a_larger_batch(text_folder: Path) -> None:
    losses = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        recipe = small(
            text_folder,
            train__batch_size=batch_size,
            train__gradient_accumulation_steps=accumulation,
            train__precision="fp32",
            optim__name="adamw",  # Muon rounds to bfloat16 inside
        )
        trainer, _ = trainer_of(recipe)
        trainer.model.train()
        results = [trainer.update(step) for step in range(4)]
        losses.append([(result.loss, result.grad_norm) for result in results])
    torch.testing.assert_close(
        torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5
    )


def test_measuring_leaves_no_trace(text_folder: Path) -> None:
    trainer, _ = trainer_of(small(text_folder, train__ema_decay=0.9))
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    seconds_per_step(trainer, warmup=1, timed=2)
    for kept, parameter in zip(before, trainer.parameters, strict=True):
        assert torch.equal(kept, parameter)
    with trainer.ema.swapped_in():
        for kept, mean in zip(before, trainer.parameters, strict=True):
            assert torch.equal(kept, mean)
    assert all(not optimizer.state for optimizer in trainer.optimizers)


def test_a_budget_becomes_a_number_of_steps(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.training.budget.seconds_per_step", lambda trainer: 0.1)
    monkeypatch.setattr("lumenspark.training.budget.seconds_per_validation", lambda trainer: 0.0)
    steps = {}
    for budget in ("100s", "200s"):
        more = {"budget": budget, "train__compile": "off", "train__max_epochs": None}
        more["train__sample_every"] = 0
        setup = set_up(small(text_folder, **more), Collected())
        fitted = fit_budget(setup, time.monotonic(), Collected())
        steps[budget] = fitted.recipe.train.steps
    assert 940 <= steps["100s"] <= 970  # 100 s less a margin of 3%, less what the lines above took
    assert 1910 <= steps["200s"] <= 1940


def test_a_budget_that_is_over_at_once(text_folder: Path, own_runs: Path) -> None:
    with pytest.raises(UserError, match="a budget of 1s ends before the first step"):
        pipeline.train(
            small(text_folder, budget="1s"), reporter=Collected(), started=time.monotonic() - 5
        )


def test_the_schedule_rises_holds_and_falls_to_zero() -> None:
    options = OptimOptions(warmup=0.1, cooldown=0.5)
    scales = [lr_factor(step, 100, options) for step in range(100)]
    assert scales[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert scales[10:55] == [1.0] * 45
    assert scales[55:] == pytest.approx([(100 - step) / 45 for step in range(55, 100)])


def test_muon_gets_the_blocks_matrices_and_adamw_the_rest(text_folder: Path) -> None:
    trainer, _ = trainer_of(small(text_folder))
    muon, adamw = build_optimizers(trainer.model, OptimOptions())
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    by_muon = {names[p] for group in muon.param_groups for p in group["params"]}
    by_adamw = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert by_muon == {n for n in names.values() if "proj" in n}
    assert by_adamw == {n for n in names.values() if "embed" in n or "norm" in n}


def test_a_full_disk_leaves_the_last_good_checkpoint(copied: Path) -> None:
    run = Run(copied)
    run.write_recipe(with_overrides(run.recipe(), {"train.steps": 18}))
    largest = 100_000  # bytes of a file; the weights are larger

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    done = lumenspark("resume", run.id, preexec_fn=limit, env=dict(os.environ))
    assert done.returncode == 2, done.stderr
    assert "could not save the checkpoint of step" in done.stderr
    assert "free some disk space and resume" in done.stderr
    assert checkpoint.verify_checkpoint(run.checkpoint("last")) is None
    assert checkpoint.checkpoint_step(run.checkpoint("last")) == 12
    assert lumenspark("resume", run.id, env=dict(os.environ)).returncode == 0
    assert checkpoint.checkpoint_step(run.checkpoint("last")) == 18


def test_a_place_that_cannot_be_written(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write the run's folder"):
        pipeline.train(small(text_folder), reporter=Collected())


def test_starting_from_other_weights(text_folder: Path, trained: Path, own_runs: Path) -> None:
    source = trained / "checkpoints" / "best"
    recipe = small(text_folder, init_from=str(source), model__hidden_size=999)
    setup = set_up(recipe, Collected())
    assert setup.recipe.model.hidden_size == 48  # the weights' own
    stored = load_file(source / "model.safetensors")
    for name, parameter in setup.model.named_parameters():
        assert torch.equal(parameter, stored[name])


def test_starting_from_another_kind_of_model(
    text_folder: Path, trained: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(trained / "checkpoints" / "best")
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"a model of the recipe's family, lumiere, and .* is a GPT2"
    ):
        set_up(small(text_folder, init_from=str(tmp_path)), Collected())


def test_an_existing_tokenizer_is_used(text_folder: Path, trained: Path) -> None:
    source = trained / "checkpoints" / "best"
    setup = set_up(small(text_folder, tokenizer__name=str(source)), Collected())
    assert setup.tokenizer.pad_token_id == 2
    assert setup.tokenizer.get_vocab() == load(str(source))[1].get_vocab()


def test_how_many_checkpoints_stay(text_folder: Path, own_runs: Path) -> None:
    earlier = {"step-000003", "step-000006", "step-000009"}
    for keep, expected in ((0, set()), (2, earlier - {"step-000003"}), (3, earlier), (9, None)):
        trainer, _ = trainer_of(small(text_folder, train__keep_checkpoints=keep))
        run = new_run(trainer.recipe)
        trainer.train(run)
        names = {path.name for path in run.checkpoints.iterdir()}
        assert names == {"best", "last"} | (earlier | {"step-000000"} if keep == 9 else expected)


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="device cuda is not available here"):
        set_up(Recipe(device="cuda"), Collected())


def test_a_tracker_that_is_not_installed(
    text_folder: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not there
    with pytest.raises(UserError, match=r"pip install 'lumenspark\[wandb\]'"):
        pipeline.train(small(text_folder, train__tracker="wandb"), reporter=Collected())
