"""The session of a trainer: run directory, state, metrics, tracker and clock."""

import time
from dataclasses import replace
from typing import Any

from lumenspark.errors import first_line
from lumenspark.recipe import Recipe
from lumenspark.reporter import Reporter
from lumenspark.runs.checkpoint import State
from lumenspark.runs.metrics import MetricsLog
from lumenspark.runs.run import Run
from lumenspark.training.interrupts import StopRequest
from lumenspark.training.step import StepResult
from lumenspark.training.trackers import Tracker, open_tracker


class Session:
    """A training of ``run``, starting at ``state``. A context manager, which closes the files."""

    def __init__(self, run: Run, recipe: Recipe, state: State, reporter: Reporter) -> None:
        self.run = run
        self.recipe = recipe
        self.state = state
        self.reporter = reporter
        self.stop = StopRequest()
        self.last_step = StepResult(0.0, 0.0)
        self._tracker: Tracker | None = None
        self._started = time.monotonic() - state.seconds
        self._step_times: list[float] = []
        self._unsaved_events: list[dict[str, Any]] = []
        self._metrics = MetricsLog(run.metrics_file)

    def __enter__(self) -> "Session":
        try:
            self._open()
        except BaseException:
            self._metrics.close()
            raise
        return self

    def _open(self) -> None:
        state, file = self.state, self.run.metrics_file
        if not self._metrics.cut(state.metrics_size, state.step):
            self.reporter.say(
                f"{file} was changed after step {state.step}: the curves will have gaps"
            )
        self._tracker = open_tracker(self.recipe.train.tracker, self.run.path, self.recipe)

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        try:
            tracker.finish()
        except Exception as error:
            name = self.recipe.train.tracker
            self.reporter.say(f"{name} failed to finish: {first_line(error)}")

    @property
    def seconds(self) -> float:
        """Training time so far, including validation, saving and earlier sessions."""
        return round(time.monotonic() - self._started, 3)

    @property
    def is_out_of_patience(self) -> bool:
        patience = self.recipe.train.early_stopping_patience
        return patience is not None and self.state.validations_without_gain >= patience

    def count_step(self, result: StepResult, seconds: float) -> None:
        """Count a finished step."""
        self.last_step = result
        self.state.step += 1
        self.state.loss_sum += result.loss
        self.state.loss_count += 1
        self._step_times.append(seconds)

    def log_step(self, lr: float) -> None:
        """Write the training metrics since the last call, if there are any."""
        state, steps = self.state, self.recipe.train.steps
        if state.loss_count == 0:
            return
        tokens = self.recipe.tokens_per_step * len(self._step_times)
        metrics = {
            "loss": state.loss_sum / state.loss_count,
            "lr": lr,
            "grad_norm": self.last_step.grad_norm,
            "tokens_per_second": tokens / sum(self._step_times),
            "seconds": self.seconds,
        }
        state.loss_sum, state.loss_count = 0.0, 0
        self._step_times.clear()
        self.write(metrics)
        self.reporter.step(state.step, steps, metrics)

    def write(self, metrics: dict[str, Any]) -> None:
        """Write metrics of the current step to metrics.jsonl and to the tracker."""
        step = self.state.step
        self._metrics.write({"step": step, "tokens": step * self.recipe.tokens_per_step, **metrics})
        if self._tracker is None:
            return
        try:
            self._tracker.log(metrics, step)
        except Exception as error:  # a tracker must not stop the training
            self._tracker = None
            self.reporter.say(
                f"{self.recipe.train.tracker} failed and receives no more metrics "
                f"({first_line(error)}); {self.run.metrics_file} has all of them"
            )

    def note_progress(self) -> None:
        """Store the size of metrics.jsonl and the time in the state, before it is saved."""
        self.state.metrics_size = self._metrics.size()
        self.state.seconds = self.seconds

    def note_saved(self) -> None:
        """Mark all events as saved in a checkpoint."""
        self._unsaved_events.clear()

    def write_sample(self, prompt: str, text: str) -> None:
        """A sample of text by the current weights."""
        step = self.state.step
        self.write_event({"step": step, "event": "sample", "prompt": prompt, "text": text})

    def write_event(self, event: dict[str, Any]) -> None:
        """Write an event of the run; unlike metrics, it is kept in a rollback."""
        self._metrics.write(event)
        self._unsaved_events.append(event)

    def go_back(self, restored: State, lr_scale: float) -> None:
        """Continue from the ``restored`` state at ``lr_scale``: later metrics are deleted.

        ``best`` and patience are kept, since they count the validations of the whole run.
        """
        failed = self.state
        self.state = replace(
            restored,
            rollbacks=failed.rollbacks + 1,
            lr_scale=lr_scale,
            best_loss=failed.best_loss,
            best_step=failed.best_step,
            lowest_loss=failed.lowest_loss,
            validations_without_gain=failed.validations_without_gain,
        )
        self._metrics.cut(self.state.metrics_size, self.state.step)
        for event in self._unsaved_events:
            self._metrics.write(event)
        self._step_times.clear()
