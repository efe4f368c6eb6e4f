"""Times of the parts of a training on this machine, measured on the trainer and undone."""

import time
from dataclasses import dataclass

from lumenspark.recipe import Recipe
from lumenspark.training.optimizers import load_optimizer_tensors
from lumenspark.training.trainer import Trainer


@dataclass(frozen=True)
class Costs:
    """Seconds of parts of a training; ``sampling``: of one teacher, on the whole train split."""

    step: float
    validation: float
    record: float
    sampling: float
    sample: float = 0.0  # of text

    def whole_step(self, recipe: Recipe) -> float:
        """A step with its share of validations, samples of text and records."""
        options = recipe.train
        seconds = self.step + self.validation / options.validate_every
        if sample_every := options.sample_every_steps:
            seconds += self.sample / sample_every
        return seconds + self.record / max(1, recipe.inspect.every)


def seconds_per_step(trainer: Trainer, warmup: int = 3, timed: int = 20) -> float:
    """Median time of ``timed`` optimizer steps, in seconds. Weights and optimizers are restored."""
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    trainer.model.train()
    times = []
    for step in range(warmup + timed):
        started = time.perf_counter()
        trainer.update(step)
        times.append(time.perf_counter() - started)
    for parameter, kept in zip(trainer.parameters, before, strict=True):
        parameter.data.copy_(kept)
    load_optimizer_tensors(trainer.optimizers, {})
    trainer.ema.copy_weights()
    return sorted(times[warmup:])[timed // 2]


def seconds_per_validation(trainer: Trainer) -> float:
    """Time of one validation, in seconds."""
    started = time.perf_counter()
    trainer.validation_loss()
    return time.perf_counter() - started


def seconds_per_sample(trainer: Trainer) -> float:
    """Time of one sample of text, in seconds; 0 without samples."""
    if not trainer.recipe.train.sample_every_steps:
        return 0.0
    prompt = trainer.recipe.train.prompt or ""
    trainer.sample(prompt)  # warms up
    started = time.perf_counter()
    trainer.sample(prompt)
    return time.perf_counter() - started


def seconds_per_record(trainer: Trainer) -> float:
    """Time of one record of the model's internals, in seconds; 0 without a recorder."""
    if trainer.recorder is None:
        return 0.0
    started = time.perf_counter()
    trainer.recorder.before_step()
    trainer.recorder.record(1.0)
    return time.perf_counter() - started
