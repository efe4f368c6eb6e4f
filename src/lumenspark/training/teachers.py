"""The teachers of a run: trained first, each in its own run directory, then sampled."""

import os
import time
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from lumenspark.files import set_aside
from lumenspark.recipe import Recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run, make_run
from lumenspark.training.batches import Ids
from lumenspark.training.distillation import sample_predictions
from lumenspark.training.interrupts import Stopped
from lumenspark.training.losses import autocast
from lumenspark.training.model_factory import new_model
from lumenspark.training.setup import Setup
from lumenspark.training.trainer import Trainer

TIMED_TOKENS = 16_384  # at most a second of sampling


def train_teachers(setup: Setup, run: Run, reporter: Reporter) -> Ids:
    """Train the teachers of ``run`` and sample their predictions of the train split.

    Finished teachers are not trained again, and an interrupted one is resumed. All teachers use the
    module of ``setup.model`` in turn, so that nothing is compiled twice; its own weights are
    restored afterwards.

    Returns (n, teachers * samples). Raises Stopped with the id of ``run`` when interrupted.
    """
    first_weights = deepcopy(setup.model.state_dict())
    sampled = []
    for number in range(setup.recipe.distill.teachers):
        reporter.say(f"teacher {number + 1} of {setup.recipe.distill.teachers}")
        trainer = _teacher(setup, number, reporter)
        try:
            _train(trainer, Run(run.path / "teachers" / str(number)))
        except Stopped as stopped:
            raise Stopped(run.id, stopped.signal) from stopped
        sampled.append(_sample(trainer, trainer.batches.windows.ids))
    setup.model.load_state_dict(first_weights)
    return np.concatenate(sampled, axis=1)


def seconds_to_sample(trainer: Trainer, timed_tokens: int = TIMED_TOKENS) -> float:
    """Time to sample one teacher on the whole train split, extrapolated from a part of it."""
    ids = trainer.batches.windows.ids
    part = ids[:timed_tokens]
    _sample(trainer, part[: timed_tokens // 4])  # warms up
    started = time.perf_counter()
    _sample(trainer, part)
    return (time.perf_counter() - started) * len(ids) / len(part)


def teacher_recipe(recipe: Recipe, number: int) -> Recipe:
    """The recipe of teacher ``number`` (0 is the first): another seed, and no teachers."""
    changes = {
        "name": f"{recipe.name}, teacher {number}",
        "budget": None,
        "seed": (recipe.seed + 1 + number) % 2**31,
        "train.steps": recipe.distill.steps,
        "train.sample_every": 0,
        "distill.teachers": 0,
        "inspect.every": 0,
    }
    return with_overrides(recipe, changes)


def _teacher(setup: Setup, number: int, reporter: Reporter) -> Trainer:
    recipe = teacher_recipe(setup.recipe, number)
    weights = new_model(recipe, setup.tokenizer, setup.tokens.vocab_size).state_dict()
    setup.model.load_state_dict(weights)
    return Trainer(replace(setup, recipe=recipe, recorder=None), reporter)


def _train(trainer: Trainer, run: Run) -> None:
    """Train to the last step of the trainer's recipe, from the last checkpoint of ``run``."""
    if os.path.lexists(run.path) and not run.checkpoints.is_dir():
        set_aside(run.path)
    if not os.path.lexists(run.path):
        make_run(run.path, trainer.recipe)
    session = trainer.resume(run) if run.has_checkpoints() else trainer.train(run)
    if session.stop.signal is not None:  # during the last step
        raise Stopped(run.id, session.stop.signal)


def _sample(trainer: Trainer, ids: Ids) -> Ids:
    """Samples of the predictions of ``ids`` (n,) by the trainer's model: (n, samples)."""
    recipe = trainer.recipe
    with (
        trainer.ema.swapped_in(),
        autocast(recipe.device, recipe.train.precision == "bf16"),
        torch.no_grad(),
    ):
        return sample_predictions(
            trainer.model, ids, recipe.model.context, recipe.distill.samples, recipe.seed
        )
