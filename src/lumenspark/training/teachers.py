"""The teachers of a run: trained first, each in a run of its own below it, and then asked."""

import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lumenspark.files import set_aside
from lumenspark.recipe import Recipe, with_overrides
from lumenspark.runs.run import Run, make_run
from lumenspark.training.distillation import sample_predictions
from lumenspark.training.loss import autocast
from lumenspark.training.trainer import Stopped, Trainer

TIMED_TOKENS = 16_384  # a second of asking, or less


def train_teachers(
    recipe: Recipe, run: Run, make_trainer: Callable[[Recipe], Trainer]
) -> npt.NDArray[np.integer]:
    """Train the teachers that ``recipe`` asks for, and ask them about the train split.

    Teachers that ``run`` has already are not trained again, and one that was interrupted goes on.
    ``make_trainer`` gives a trainer at step 0 for a recipe.

    Returns (n, teachers * samples): what :class:`Trainer` takes as ``answers``. Raises Stopped, in
    the name of ``run``, when asked to stop.
    """
    answers = []
    for number in range(recipe.distill.teachers):
        trainer = make_trainer(teacher_recipe(recipe, number))
        trainer.reporter.say(f"teacher {number + 1} of {recipe.distill.teachers}")
        try:
            _train(trainer, Run(run.path / "teachers" / str(number)))
        except Stopped as stopped:
            raise Stopped(run.id, stopped.signal) from stopped
        answers.append(_ask(trainer, trainer.windows.ids))
    return np.concatenate(answers, axis=1)


def seconds_to_ask(trainer: Trainer) -> float:
    """What asking one teacher about the whole train split will take, from asking about a part."""
    ids = trainer.windows.ids
    part = ids[:TIMED_TOKENS]
    _ask(trainer, part[: TIMED_TOKENS // 4])  # warms up
    began = time.perf_counter()
    _ask(trainer, part)
    return (time.perf_counter() - began) * len(ids) / len(part)


def teacher_recipe(recipe: Recipe, number: int) -> Recipe:
    """What teacher ``number`` (0 is the first) is trained by: another seed, and no teachers."""
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


def _train(trainer: Trainer, run: Run) -> None:
    """To the last step of the trainer's recipe, from wherever ``run`` is."""
    if os.path.lexists(run.path) and not run.checkpoints.is_dir():
        set_aside(run.path)
    if not os.path.lexists(run.path):
        make_run(run.path, trainer.recipe)
    if run.has_checkpoints():
        trainer.resume(run)
    else:
        trainer.train(run)
    if trainer.stop_signal is not None:  # it came during the last step
        raise Stopped(run.id, trainer.stop_signal)


def _ask(trainer: Trainer, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """What the trainer's model answers about ``ids`` (n,): (n, samples)."""
    recipe = trainer.recipe
    with trainer.ema_weights(), autocast(recipe.device, recipe.train.precision == "bf16"):
        return sample_predictions(
            trainer.model, ids, trainer.context, recipe.distill.samples, recipe.seed
        )
