"""The training loop, with validation, checkpoints, rollback after non-finite steps, and stopping.

A step depends on the seed, its number, the weights and the optimizer state alone: batches and
random numbers have no history. So a resumed run produces the same weights, bit for
bit, as an uninterrupted one.
"""

import math
import os
import time

import torch

from lumenspark.errors import UserError
from lumenspark.evaluation.scoring import card_loss
from lumenspark.files import write_json
from lumenspark.reporter import Reporter
from lumenspark.runs import checkpoint as checkpoints
from lumenspark.runs.checkpoint import State
from lumenspark.runs.run import Run, tidy_run
from lumenspark.training.batches import Batches, Ids
from lumenspark.training.checkpointer import Checkpointer
from lumenspark.training.ema import EMA
from lumenspark.training.interrupts import Stopped, noting_interrupts
from lumenspark.training.losses import autocast
from lumenspark.training.lr_schedule import lr_factor, set_lr
from lumenspark.training.optimizers import build_optimizers
from lumenspark.training.sample import sample_text
from lumenspark.training.session import Session
from lumenspark.training.setup import Recorder, Setup
from lumenspark.training.step import StepResult, optimizer_step, step_seed

MAX_ROLLBACKS = 3
SAMPLE_TOKENS = 48


class DivergedError(UserError):
    """Steps of ``session`` stayed non-finite in spite of lower learning rates."""

    def __init__(self, message: str, session: Session) -> None:
        super().__init__(message)
        self.session = session


class Trainer:
    """Trains the model of ``setup`` by its recipe.

    ``teacher_samples`` (n, S): samples of the teachers' predictions for each train token.
    """

    def __init__(
        self, setup: Setup, reporter: Reporter, teacher_samples: Ids | None = None
    ) -> None:
        recipe = setup.recipe
        self.recipe = recipe
        self.model = setup.model
        self.tokenizer = setup.tokenizer
        self.loss = setup.loss
        self.recorder = setup.recorder
        self.reporter = reporter
        self.tokens_digest = setup.tokens.digest
        self.validation = setup.tokens.splits["validation"]
        self.batches = Batches(setup.tokens.splits["train"].ids, recipe, teacher_samples)
        self.parameters = list(setup.model.parameters())
        self.optimizers = build_optimizers(setup.model, recipe.optim)
        self.ema = EMA(setup.model, recipe.train.ema_decay)

    def train(self, run: Run) -> Session:
        """Train from step 0 to the end, into ``run``.

        Raises Stopped when interrupted, after saving, and DivergedError.
        """
        with run.locked():
            checkpointer, state = self._checkpointer(run), State()
            checkpointer.save(state)
            return self._run(run, checkpointer, state)

    def resume(self, run: Run) -> Session:
        """Train from the newest valid checkpoint of ``run`` to the end. Raises as :meth:`train`."""
        with run.locked():
            tidy_run(run)
            checkpoints.recover_interrupted_saves(run.checkpoints)
            checkpointer = self._checkpointer(run)
            state = checkpointer.restore(checkpointer.latest_valid())
            self.reporter.say(f"resuming from step {state.step}")
            self._take_up_best(run, checkpointer, state)
            return self._run(run, checkpointer, state)

    def update(self, step: int, lr_scale: float = 1.0) -> StepResult:
        """Take one optimizer step; a non-finite one leaves the weights unchanged."""
        recipe = self.recipe
        factor = lr_scale * lr_factor(step, recipe.train.steps, recipe.optim)
        set_lr(self.optimizers, recipe.optim, factor)
        torch.manual_seed(step_seed(recipe.seed, step))
        batch = self.batches.micro_batches(step)
        norm = recipe.optim.max_grad_norm
        result = optimizer_step(self.loss, batch, self.parameters, self.optimizers, norm)
        if result.is_finite:
            self.ema.update(step)
        return result

    def validation_loss(self) -> float:
        """Nats per token by the card's protocol, on evenly spaced validation windows."""
        recipe = self.recipe
        with self.ema.swapped_in(), autocast(recipe.device, recipe.train.precision == "bf16"):
            loss, _ = card_loss(
                self.model,
                self.validation,
                context=recipe.model.context,
                limit_windows=recipe.train.validation_windows,
            )
        self.model.train()
        return loss

    def sample(self, prompt: str) -> str:
        """A continuation of ``prompt`` by the current weights, the same for the same seed."""
        self.model.eval()
        with self.ema.swapped_in():
            text = sample_text(self.model, self.tokenizer, prompt, self.recipe.seed, SAMPLE_TOKENS)
        self.model.train()
        return text

    # The loop

    def _run(self, run: Run, checkpointer: Checkpointer, state: State) -> Session:
        steps = self.recipe.train.steps
        self.model.train()
        with (
            Session(run, self.recipe, state, self.reporter) as session,
            self.reporter,
            noting_interrupts(session.stop),
        ):
            self.reporter.start(state.step, steps)
            while session.state.step < steps and not session.is_out_of_patience:
                if self._step(session, checkpointer):
                    self._after_step(session, checkpointer)
        return session

    def _step(self, session: Session, checkpointer: Checkpointer) -> bool:
        """Take one step. False if it was non-finite and the run was rolled back."""
        state = session.state
        recorder = self._recorder_due(state.step + 1)
        if recorder is not None:
            recorder.before_step()
        started = time.perf_counter()
        result = self.update(state.step, state.lr_scale)
        if not result.is_finite:
            self._go_back(session, checkpointer, result)
            return False
        session.count_step(result, time.perf_counter() - started)
        return True

    def _after_step(self, session: Session, checkpointer: Checkpointer) -> None:
        options, step = self.recipe.train, session.state.step
        is_last = step == options.steps
        stop_signal = session.stop.signal  # a later one takes effect after the next step
        validates = is_last or _due(step, options.validate_every)
        saves = is_last or _due(step, options.save_every) or stop_signal is not None
        if (validates or saves) and not self._weights_are_finite():
            self._go_back(session, checkpointer, StepResult(math.nan, session.last_step.grad_norm))
            return
        if is_last or _due(step, options.log_every):
            session.log_step(lr=self.optimizers[0].param_groups[0]["lr"])
        self._record(session)
        if validates:
            self._validate(session, checkpointer)
        if _due(step, options.sample_every_steps) or (is_last and options.sample_every is None):
            self._sample(session)
        if saves or session.is_out_of_patience:
            session.note_progress()
            checkpointer.save(session.state)
            session.note_saved()
        if stop_signal is not None and not is_last:
            raise Stopped(session.run.id, stop_signal)

    def _record(self, session: Session) -> None:
        recorder = self._recorder_due(session.state.step)
        if recorder is not None:
            # Gradients are recorded as they were before clipping.
            clipping = session.last_step.grad_norm / self.recipe.optim.max_grad_norm
            figures = recorder.record(max(1.0, clipping))
            session.write(figures | {"seconds": session.seconds})

    def _sample(self, session: Session) -> None:
        prompt = self.recipe.train.prompt or ""
        text = self.sample(prompt)
        session.write_sample(prompt, text)
        self.reporter.say(f"step {session.state.step} writes: {' '.join(text.split())}")

    def _recorder_due(self, step: int) -> Recorder | None:
        every = self.recipe.inspect.every
        due = every > 0 and (_due(step, every) or step == self.recipe.train.steps)
        return self.recorder if due else None

    def _validate(self, session: Session, checkpointer: Checkpointer) -> None:
        state, loss = session.state, self.validation_loss()
        session.write({"validation_loss": loss, "seconds": session.seconds})
        best = math.inf if state.best_loss is None else state.best_loss
        # Weights without a finite loss become best only if there is no other, so that the run ends.
        better = loss < best or not os.path.lexists(session.run.checkpoints / "best")
        note = "the best so far" if better else f"best {best:.4f}, at step {state.best_step}"
        self.reporter.say(f"step {state.step}  validation loss {loss:.4f} ({note})")
        # Separate from best: steps repeated after a rollback would meet their own results there.
        state.validations_without_gain += 1
        if loss < (math.inf if state.lowest_loss is None else state.lowest_loss):
            state.lowest_loss, state.validations_without_gain = loss, 0
        if better:
            state.best_loss = checkpointer.save_best(state.step, loss)
            state.best_step = state.step

    # Checkpoints and rollback

    def _checkpointer(self, run: Run) -> Checkpointer:
        return Checkpointer(
            run,
            self.recipe,
            self.model,
            self.tokenizer,
            self.optimizers,
            self.ema,
            self.tokens_digest,
            self.reporter,
        )

    def _take_up_best(self, run: Run, checkpointer: Checkpointer, state: State) -> None:
        """Read the best loss from ``best`` itself, which may be of a later step than ``state``.

        If it is damaged or missing, the weights that the run resumes from become ``best``.
        """
        path = run.checkpoints / "best"
        if not os.path.lexists(path) and state.best_loss is None:
            return  # nothing was validated yet
        problem = checkpointer.problem_with_best()
        if problem is not None:
            loss = self.validation_loss()
            state.best_loss = checkpointer.replace_best(problem, state.step, loss)
            state.best_step = state.step
            return
        marker = checkpoints.read_marker(path)
        if marker.loss is not None:
            state.best_loss, state.best_step = marker.loss, marker.step
        elif marker.step != state.best_step:  # written by an earlier version, without its loss
            measured = [line for line in run.metrics() if "validation_loss" in line]
            losses = [m["validation_loss"] for m in measured if m["step"] == marker.step]
            if losses:
                state.best_loss, state.best_step = losses[-1], marker.step

    def _go_back(self, session: Session, checkpointer: Checkpointer, result: StepResult) -> None:
        """Restore the last checkpoint after a non-finite step, and halve the learning rate."""
        failed, lr_scale = session.state, session.state.lr_scale / 2
        path = checkpointer.latest_valid()
        session.write_event(
            {
                "step": failed.step,
                "event": "rollback",
                "to_step": checkpoints.checkpoint_step(path),
                "loss": str(result.loss),
                "grad_norm": str(result.grad_norm),
                "lr_scale": lr_scale,
            }
        )
        if failed.rollbacks + 1 == MAX_ROLLBACKS:
            self._give_up(session)
        session.go_back(checkpointer.restore(path), lr_scale)
        self.reporter.say(
            f"step {failed.step} was not finite (loss {result.loss}, gradient {result.grad_norm}): "
            f"back to step {session.state.step}, at {lr_scale:g} times the learning rate"
        )

    def _give_up(self, session: Session) -> None:
        step = session.state.step
        batch = self.batches.token_ids(step).flatten(0, 1).tolist()
        file = session.run.path / "failed-batch.json"
        texts = [self.tokenizer.decode(ids) for ids in batch]
        write_json(file, {"step": step, "input_ids": batch, "text": texts})
        message = (
            f"step {step} was not finite, for the {MAX_ROLLBACKS}rd time: its batch is in {file}; "
            "try lower learning rates (optim.muon_lr, optim.adamw_lr) or precision fp32"
        )
        raise DivergedError(message, session)

    def _weights_are_finite(self) -> bool:
        """A finite gradient can still make a weight overflow, which must not be saved."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
