"""The training loop: batch, forward, backward, clip, step; and around it validation, checkpoints,
going back when a step is not finite, and stopping when asked.

Nothing here depends on what happened before but :class:`.checkpoint.State`, the weights and the
optimizers' state: the batches and the random numbers of a step follow from the seed and its number
alone. So a run that was killed and resumed ends with the bits of one that was not.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lumenspark.data.tokens import PreparedTokens
from lumenspark.data.windows import TrainingWindows
from lumenspark.errors import LONGEST_QUOTE, UserError, first_line, quoted, shortened
from lumenspark.evaluation.scoring import card_loss
from lumenspark.files import set_aside, write_json
from lumenspark.recipe import Recipe
from lumenspark.reporter import Reporter
from lumenspark.runs import checkpoint as checkpoints
from lumenspark.runs.checkpoint import Origin, State, TrainerState
from lumenspark.runs.metrics import MetricsLog
from lumenspark.runs.run import Run, earlier_recipe_digest, recipe_digest, tidy_run
from lumenspark.training.loss import Loss, autocast, make_loss
from lumenspark.training.optimizers import (
    build_optimizers,
    load_optimizer_tensors,
    lr_factor,
    optimizer_misfit,
    optimizer_tensors,
    set_lr,
)
from lumenspark.training.trackers import Tracker, open_tracker

MOST_ROLLBACKS = 3
RAW = "raw."  # in a trainer's state: weights that are not the average
SAMPLE_TOKENS = 48


class Stopped(Exception):  # noqa: N818 (not an error: it did as asked)
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved. ``signal`` is which."""

    def __init__(self, run_id: str, signal_number: int) -> None:
        super().__init__(run_id, signal_number)
        self.run_id = run_id
        self.signal = signal_number


class DivergedError(UserError):
    """Steps were not finite again and again, at ever lower rates."""


class Recorder(Protocol):
    """Somebody who looks into the model around a step, and changes nothing."""

    def before_step(self) -> None: ...

    def record(self, gradient_scale: float) -> dict[str, float]: ...


class Trainer:
    """Trains ``model`` on ``tokens`` as ``recipe`` says.

    ``loss`` is another trainer's, of the same model and options, which need not be compiled again.
    """

    run: Run
    recorder: Recorder | None = None  # asked every ``inspect.every`` steps
    answers: npt.NDArray[np.integer] | None = None  # (n, S): teachers' samples for each train id
    _tracker: Tracker | None = None

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        tokenizer: Any,
        tokens: PreparedTokens,
        reporter: Reporter,
        loss: Loss | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.tokenizer = tokenizer
        self.reporter = reporter
        self.context = recipe.model.context
        self.windows = TrainingWindows(tokens.splits["train"].ids, self.context, recipe.seed)
        self.validation = tokens.splits["validation"]
        self.tokens_digest = tokens.digest
        self.parameters = list(model.parameters())
        bf16 = recipe.train.precision == "bf16"
        self.loss = loss or make_loss(model, recipe.device, bf16, recipe.distill.weight)
        self.state = State()
        self.optimizers = build_optimizers(model, recipe.optim)
        self.ema: list[Tensor] | None = None
        if recipe.train.ema_decay:
            self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.stop_signal: int | None = None

    def train(self, run: Run) -> None:
        """From step 0 to the end, into ``run``. Raises Stopped when asked to stop, after saving."""
        self.run = run
        with run.locked():
            self._save()
            self._go_on()

    def resume(self, run: Run) -> None:
        """From the newest good checkpoint of ``run`` to the end."""
        self.run = run
        with run.locked():
            tidy_run(run)
            checkpoints.recover_interrupted_saves(run.checkpoints)
            self._restore(self._latest_valid_checkpoint())
            self.reporter.say(f"going on from step {self.state.step}")
            self._take_up_best()
            self._go_on()

    def _go_on(self) -> None:
        options, state = self.recipe.train, self.state
        self._metrics = MetricsLog(self.run.metrics_file)
        try:
            if not self._metrics.cut(state.metrics_size, state.step):
                self.reporter.say(
                    f"{self.run.metrics_file} is not what it was at step {state.step}: "
                    "the curves will have gaps"
                )
            self._tracker = open_tracker(options.tracker, self.run.path, self.recipe)
            self._began = time.monotonic() - state.seconds
            self._step_times: list[float] = []
            self._events_since_save: list[dict[str, Any]] = []
            self.model.train()
            with self.reporter, self._stopping_when_asked():
                self.reporter.start(state.step, options.steps)
                while self.state.step < options.steps and not self._out_of_patience():
                    if self._one_step():
                        self._after_step()
        finally:
            self._metrics.close()
            self._finish_tracking()

    def compile(self) -> None:
        """Compile the loss, and try it on the first windows: raises whatever a compiler raises."""
        self.loss = torch.compile(self.loss)
        self.model.train()
        self.loss(self._batch(0)[0]).backward()

    def seconds_per_step(self, warm: int = 3, timed: int = 20) -> float:
        """Measure some steps and undo them: weights and optimizers are as before."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        self.model.train()
        times = []
        for step in range(warm + timed):
            began = time.perf_counter()
            self._update(step)
            times.append(time.perf_counter() - began)
        for parameter, kept in zip(self.parameters, before, strict=True):
            parameter.data.copy_(kept)
        self.optimizers = build_optimizers(self.model, self.recipe.optim)
        if self.ema is not None:
            self.ema = before
        return sorted(times[warm:])[timed // 2]

    def seconds_per_record(self) -> float:
        """What looking inside takes, where somebody does."""
        if self.recorder is None:
            return 0.0
        began = time.perf_counter()
        self.recorder.before_step()
        self.recorder.record(1.0)
        return time.perf_counter() - began

    def seconds_per_validation(self) -> float:
        began = time.perf_counter()
        self._validation_loss()
        return time.perf_counter() - began

    # One step

    def _one_step(self) -> bool:
        """Whether the step was taken; where it was not finite, the run has gone back instead."""
        state = self.state
        recorder = self._recorder_due(state.step + 1)
        if recorder is not None:
            recorder.before_step()
        began = time.perf_counter()
        loss, self._norm = self._update(state.step)
        if not math.isfinite(loss + self._norm):
            self._go_back(loss, self._norm)
            return False
        state.step += 1
        state.loss_sum += loss
        state.loss_count += 1
        self._step_times.append(time.perf_counter() - began)
        return True

    def _update(self, step: int) -> tuple[float, float]:
        """Forward, backward, clip, step. Returns the loss and the norm of the gradient.

        Where either is not finite the weights are left as they were.
        """
        recipe = self.recipe
        scale = self.state.lr_scale * lr_factor(step, recipe.train.steps, recipe.optim)
        set_lr(self.optimizers, recipe.optim, scale)
        self.model.zero_grad()
        torch.manual_seed(seed_of(recipe.seed, step))
        total = torch.zeros((), device=recipe.device)
        batch = self._batch(step)
        for windows, answers in zip(batch, self._answers(step), strict=True):
            loss = self.loss(windows, answers) / len(batch)
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, recipe.optim.max_grad_norm)
        values = float(total), float(norm)
        if math.isfinite(sum(values)):
            for optimizer in self.optimizers:
                optimizer.step()
            if self.ema is not None:
                decay = ema_decay_at(step, recipe.train.ema_decay)
                torch._foreach_lerp_(self.ema, self.parameters, 1 - decay)
        return values

    def _batch(self, step: int) -> Tensor:
        """The windows of a step, (accumulation, batch, context + 1) token ids."""
        count = self._windows_per_step
        windows = torch.from_numpy(self.windows.batch(step * count, count))
        return self._by_accumulation(windows)

    def _answers(self, step: int) -> Tensor | list[None]:
        """What teachers would have said in place of a step's targets, (accumulation, batch, T, S).

        None for each forward pass where there are no teachers.
        """
        if self.answers is None:
            return [None] * self.recipe.train.gradient_accumulation_steps
        count = self._windows_per_step
        targets = self.windows.positions(step * count, count)[:, 1:]
        return self._by_accumulation(torch.from_numpy(self.answers[targets].astype(np.int64)))

    @property
    def _windows_per_step(self) -> int:
        return self.recipe.train.batch_size * self.recipe.train.gradient_accumulation_steps

    def _by_accumulation(self, rows: Tensor) -> Tensor:
        return rows.to(self.recipe.device).unflatten(
            0, (self.recipe.train.gradient_accumulation_steps, -1)
        )

    # What happens between steps

    def _after_step(self) -> None:
        options, step = self.recipe.train, self.state.step
        last = step == options.steps
        asked = self.stop_signal  # one that comes from here on is answered after the next step
        validates = last or _due(step, options.validate_every)
        saves = last or _due(step, options.save_every) or asked is not None
        if (validates or saves) and not self._weights_are_finite():
            self._go_back(math.nan, self._norm)
            return
        if _due(step, options.log_every) or last:
            self._log()
        recorder = self._recorder_due(step)
        if recorder is not None:
            # Undoes the clipping: gradients are recorded as they were.
            scale = max(1.0, self._norm / self.recipe.optim.max_grad_norm)
            self._write(recorder.record(scale) | {"seconds": self._seconds()})
        if validates:
            self._validate()
        if options.sample_every and _due(step, options.sample_every):
            self.reporter.say(f"step {step}: {self.sample(options.prompt)}")
        if saves or self._out_of_patience():
            self._save()
        if asked is not None and not last:
            raise Stopped(self.run.id, asked)

    def _recorder_due(self, step: int) -> Recorder | None:
        """Who looks inside after ``step``: now and then, and after the recipe's last."""
        every = self.recipe.inspect.every
        due = every > 0 and (_due(step, every) or step == self.recipe.train.steps)
        return self.recorder if due else None

    def _log(self) -> None:
        state = self.state
        if state.loss_count == 0:
            return
        per_step = self.recipe.tokens_per_step
        metrics = {
            "loss": state.loss_sum / state.loss_count,
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "grad_norm": self._norm,
            "tokens_per_second": per_step * len(self._step_times) / sum(self._step_times),
            "seconds": self._seconds(),
        }
        state.loss_sum, state.loss_count = 0.0, 0
        self._step_times.clear()
        self._write(metrics)
        self.reporter.step(state.step, self.recipe.train.steps, metrics)

    def _validate(self) -> None:
        state = self.state
        loss = self._validation_loss()
        self._write({"validation_loss": loss, "seconds": self._seconds()})
        best = math.inf if state.best_loss is None else state.best_loss
        # Without a loss that is a number the first weights stay, so that the run has an end.
        better = loss < best or not os.path.lexists(self.run.checkpoints / "best")
        note = "the best so far" if better else f"best {best:.4f}, at step {state.best_step}"
        self.reporter.say(f"step {state.step}  validation loss {loss:.4f} ({note})")
        # Steps that are done again find their own results in best, and patience has not seen them.
        state.validations_without_gain += 1
        if loss < (math.inf if state.lowest_loss is None else state.lowest_loss):
            state.lowest_loss, state.validations_without_gain = loss, 0
        if better:
            self._save_best(loss)

    def _save_best(self, loss: float) -> None:
        step, noted = self.state.step, loss if math.isfinite(loss) else None
        with self.ema_weights():
            checkpoints.save_checkpoint(
                self.run.checkpoints,
                "best",
                step,
                self.model,
                self.tokenizer,
                origin=self._origin(),
                loss=noted,
            )
        self.state.best_loss, self.state.best_step = noted, step

    def _validation_loss(self) -> float:
        """Nats per token by the card's protocol, on evenly spread validation windows."""
        recipe = self.recipe
        with self.ema_weights(), autocast(recipe.device, recipe.train.precision == "bf16"):
            loss, _ = card_loss(
                self.model,
                self.validation,
                context=self.context,
                limit_windows=recipe.train.validation_windows,
            )
        self.model.train()
        return loss

    def sample(self, prompt: str) -> str:
        """A continuation of ``prompt`` by the current weights, the same for the same seed."""
        self.model.eval()
        with self.ema_weights():
            text = sample_text(self.model, self.tokenizer, prompt, self.recipe.seed, SAMPLE_TOKENS)
        self.model.train()
        return text

    def _write(self, metrics: dict[str, Any]) -> None:
        step = self.state.step
        self._metrics.write({"step": step, "tokens": step * self.recipe.tokens_per_step, **metrics})
        if self._tracker is None:
            return
        try:
            self._tracker.log(metrics, step)
        except Exception as error:  # a tracker is a helper: no training ends because of it
            self._tracker = None
            self.reporter.say(
                f"{self.recipe.train.tracker} gets no more metrics, since it failed "
                f"({first_line(error)}); all of them go to {self.run.metrics_file}"
            )

    def _finish_tracking(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        try:
            tracker.finish()
        except Exception as error:
            self.reporter.say(f"{self.recipe.train.tracker} did not end well: {first_line(error)}")

    def _seconds(self) -> float:
        """Spent training so far, validations and saving too, earlier parts of the run too."""
        return round(time.monotonic() - self._began, 3)

    def _out_of_patience(self) -> bool:
        patience = self.recipe.train.early_stopping_patience
        return patience is not None and self.state.validations_without_gain >= patience

    # Saving, and going back

    def _save(self) -> None:
        if self.state.step:
            self.state.metrics_size = self._metrics.size()
            self.state.seconds = self._seconds()
        tensors = optimizer_tensors(self.optimizers)
        if self.ema is not None:  # the checkpoint's weights are the average
            for name, parameter in self.model.named_parameters():
                tensors[RAW + name] = parameter.detach().clone()
        trainer = TrainerState(self.state, tensors)
        with self.ema_weights():
            checkpoints.save_checkpoint(
                self.run.checkpoints,
                "last",
                self.state.step,
                self.model,
                self.tokenizer,
                trainer,
                origin=self._origin(),
            )
        checkpoints.prune_checkpoints(self.run.checkpoints, self.recipe.train.keep_checkpoints)
        self._events_since_save = []

    def _origin(self) -> Origin:
        return Origin(self.run.identity, recipe_digest(self.recipe), self.tokens_digest)

    def _restore(self, path: Path) -> None:
        trainer = checkpoints.load_trainer(path)
        checkpoints.load_weights(self.model, path)
        if self.ema is not None:
            self.ema = [parameter.detach().clone() for parameter in self.parameters]
            for name, parameter in self.model.named_parameters():
                parameter.data.copy_(trainer.tensors.pop(RAW + name))
        self.optimizers = build_optimizers(self.model, self.recipe.optim)
        load_optimizer_tensors(self.optimizers, trainer.tensors)
        self.state = trainer.values

    def _take_up_best(self) -> None:
        """What lies in ``best`` says what is better: it may be of a later step than the state.

        Where it is damaged or lost, the state that the run goes on from becomes ``best``.
        """
        state, path = self.state, self.run.checkpoints / "best"
        if not os.path.lexists(path) and state.best_loss is None:
            return  # nothing was validated yet
        problem = (
            checkpoints.verify_checkpoint(path) if os.path.lexists(path) else f"{path} is missing"
        )
        problem = problem or self._other_origin(path)
        if problem is not None:
            self.reporter.say(
                f"passing over a checkpoint: {problem}; best is now of step {state.step}"
            )
            if os.path.lexists(path):
                set_aside(path)
            self._save_best(self._validation_loss())
            return
        marker = checkpoints.read_marker(path)
        if marker.loss is not None:
            state.best_loss, state.best_step = marker.loss, marker.step
        elif marker.step != state.best_step:  # of an earlier version, which noted no loss there
            measured = [line for line in self.run.metrics() if "validation_loss" in line]
            losses = [m["validation_loss"] for m in measured if m["step"] == marker.step]
            if losses:
                state.best_loss, state.best_step = losses[-1], marker.step

    def _go_back(self, loss: float, norm: float) -> None:
        """A step was not finite: back to the last good state, at half the rate."""
        failed = self.state
        rollbacks, lr_scale = failed.rollbacks + 1, failed.lr_scale / 2
        path = self._latest_valid_checkpoint()
        event = {
            "step": failed.step,
            "event": "rollback",
            "to_step": checkpoints.checkpoint_step(path),
            "loss": str(loss),
            "grad_norm": str(norm),
            "lr_scale": lr_scale,
        }
        self._metrics.write(event)
        self._events_since_save.append(event)
        if rollbacks == MOST_ROLLBACKS:
            self._give_up(failed.step)
        self._restore(path)
        self.state = replace(
            self.state,
            rollbacks=rollbacks,
            lr_scale=lr_scale,
            # The best stays, and patience counts on: both are of the validations so far.
            best_loss=failed.best_loss,
            best_step=failed.best_step,
            lowest_loss=failed.lowest_loss,
            validations_without_gain=failed.validations_without_gain,
        )
        # Lines about steps that are undone go; what happened stays.
        self._metrics.cut(self.state.metrics_size, self.state.step)
        for kept in self._events_since_save:
            self._metrics.write(kept)
        self._step_times.clear()
        self.reporter.say(
            f"step {failed.step} was not finite (loss {loss}, gradient {norm}): "
            f"back to step {self.state.step}, at {lr_scale:g} times the learning rate"
        )

    def _latest_valid_checkpoint(self) -> Path:
        path, problems = checkpoints.latest_valid_checkpoint(self.run.checkpoints, self._misfit)
        for problem in problems:
            self.reporter.say(f"passing over a checkpoint: {problem}")
        return path

    def _misfit(self, path: Path) -> str | None:
        """Why this training cannot go on from a checkpoint that is whole; None where it can."""
        try:
            return self._other_origin(path) or self._other_tensors(path)
        except UserError as error:
            return first_line(error)

    def _other_origin(self, path: Path) -> str | None:
        found, own = checkpoints.read_marker(path), self._origin()
        if found.run not in {None, own.run, self.run.id}:
            return f"{path} is of another run, {shortened(str(found.run), LONGEST_QUOTE)}"
        if found.tokens not in {None, own.tokens}:
            return f"{path} was trained on another text than {self.recipe.data} is now"
        if found.recipe not in {None, own.recipe, earlier_recipe_digest(self.recipe)}:
            return f"{path} is of another recipe, or seed, than {self.run.path / 'recipe.yaml'}"
        return None

    def _other_tensors(self, path: Path) -> str | None:
        """By name and shape, since neither copying nor an optimizer would notice."""
        weights = checkpoints.tensor_shapes(path / checkpoints.WEIGHTS)
        tensors = checkpoints.tensor_shapes(path / checkpoints.TRAINER_TENSORS)
        for name, parameter in self.model.named_parameters():
            shape = tuple(parameter.shape)
            if weights.get(name) != shape:
                return f"{path / checkpoints.WEIGHTS} has no {name} of the shape {shape}"
            if self.ema is not None and tensors.pop(RAW + name, None) != shape:
                return f"{path / checkpoints.TRAINER_TENSORS} has no {RAW}{name} of {shape}"
        problem = optimizer_misfit(build_optimizers(self.model, self.recipe.optim), tensors)
        return problem and f"{path / checkpoints.TRAINER_TENSORS} does not fit: {problem}"

    def _weights_are_finite(self) -> bool:
        """A finite gradient can still push weights over the edge; they must not be saved."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def _give_up(self, step: int) -> None:
        batch = self._batch(step).flatten(0, 1).tolist()
        file = self.run.path / "failed-batch.json"
        texts = [self.tokenizer.decode(ids) for ids in batch]
        write_json(file, {"step": step, "input_ids": batch, "text": texts})
        raise DivergedError(
            f"step {step} was not finite, for the {MOST_ROLLBACKS}rd time: its batch is in "
            f"{file}; try lower rates (optim.muon_lr, optim.adamw_lr) or precision fp32"
        )

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights, where there are any."""
        self._swap_ema()
        try:
            yield
        finally:
            self._swap_ema()

    def _swap_ema(self) -> None:
        for parameter, average in zip(self.parameters, self.ema or (), strict=False):
            parameter.data, average.data = average.data, parameter.data

    @contextmanager
    def _stopping_when_asked(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step in hand; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.getsignal(number) for number in numbers]

        def ask(number: int, frame: object) -> None:
            self.stop_signal = number
            for each, handler in zip(numbers, before, strict=True):
                signal.signal(each, handler)

        for number in numbers:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def sample_text(model: Any, tokenizer: Any, prompt: str, seed: int, tokens: int) -> str:
    """A continuation of ``prompt``; why there is none where it has none. No training ends by it."""
    torch.manual_seed(seed)
    try:
        text = model.generate(
            text=prompt, tokenizer=tokenizer, max_new_tokens=tokens, temperature=0.8, top_k=50
        )
    except Exception as error:  # a prompt that is no text, or nothing to this tokenizer
        return f"none: the prompt {quoted(prompt)} cannot be continued ({first_line(error)})"
    return str(text)


def ema_decay_at(step: int, largest: float) -> float:
    """The decay of the average: small at first, so that the initial weights are forgotten."""
    return min(largest, (step + 1) / (step + 10))


def seed_of(seed: int, step: int) -> int:
    """The seed of one step's random numbers (dropout), so that none has a history."""
    return (seed << 32) + step


def _due(step: int, every: int) -> bool:
    return step % every == 0
