"""Conversion of a time budget to a number of steps, once, at the start."""

import time
from dataclasses import replace

from lumenspark.errors import UserError
from lumenspark.recipe import Recipe, parse_duration
from lumenspark.reporter import Reporter, in_words
from lumenspark.training.batches import Ids
from lumenspark.training.epochs import most_steps
from lumenspark.training.setup import Setup
from lumenspark.training.teachers import seconds_to_sample
from lumenspark.training.timing import (
    Costs,
    seconds_per_record,
    seconds_per_sample,
    seconds_per_step,
    seconds_per_validation,
)
from lumenspark.training.trainer import Trainer

BUDGET_MARGIN = 0.97  # fraction of the remaining time, since step times vary


def fit_budget(
    setup: Setup,
    started: float,
    reporter: Reporter,
    teacher_samples: Ids | None = None,
    costs: Costs | None = None,
) -> Setup:
    """``setup`` with the number of steps that fit into its budget, counted from ``started``.

    The steps end where reading the text once more would overfit (:mod:`.epochs`). Teachers that
    are still to be trained get ``distill.budget_fraction`` of the training time, and sampling their
    predictions is planned for. Without a budget nothing changes. ``costs`` are measured unless
    given. Raises UserError where no time is left for training.
    """
    recipe = setup.recipe
    if recipe.budget is None:
        return setup
    teachers = recipe.distill.teachers if teacher_samples is None else 0
    if costs is None:
        trainer = Trainer(setup, reporter, teacher_samples)
        costs = Costs(
            step=seconds_per_step(trainer),
            validation=seconds_per_validation(trainer),
            record=seconds_per_record(trainer),
            sampling=seconds_to_sample(trainer) if teachers else 0.0,
            sample=seconds_per_sample(trainer),
        )
    step, whole_step, sampling = costs.step, costs.whole_step(recipe), teachers * costs.sampling
    used = time.monotonic() - started
    left = parse_duration(recipe.budget) - used - sampling
    steps = int(left * BUDGET_MARGIN / whole_step)
    if steps < 1 and teacher_samples is None:  # after its teachers, a run always trains the model
        spent = f", sampling the teachers takes {sampling:.0f} s" if teachers else ""
        raise UserError(
            f"a budget of {recipe.budget} ends before the first step: set-up took {used:.0f} s"
            f"{spent} and a step takes {step:.2f} s"
        )
    tokens = len(setup.tokens.splits["train"].ids)
    most = most_steps(recipe, tokens, sum(p.numel() for p in setup.model.parameters()))
    fitted = _with_steps(recipe, steps, teachers, most)
    if fitted.train.steps == most and not teachers:  # with teachers, they are trained first
        epochs = most * recipe.tokens_per_step / tokens
        why = "more would overfit" if recipe.train.max_epochs == "auto" else "as asked"
        reporter.say(
            f"the text is read {epochs:.1f} times, in {in_words(most * whole_step)}; {why} "
            "(train.max_epochs)"
        )
    return replace(setup, recipe=fitted)


def _with_steps(recipe: Recipe, steps: int, teachers: int, most: int | None) -> Recipe:
    """The recipe with ``steps`` divided among the model and ``teachers`` teachers.

    None of them gets more than ``most``.
    """
    distill = recipe.distill
    if teachers:
        each = max(1, int(steps * distill.budget_fraction / teachers))
        each = each if most is None else min(each, most)
        distill = replace(distill, steps=each)
        steps -= teachers * each
    steps = max(1, steps if most is None else min(steps, most))
    return replace(recipe, train=replace(recipe.train, steps=steps), distill=distill)
