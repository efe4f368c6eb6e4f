"""From a recipe to a trained, evaluated model with its card: ``lumenspark train``."""

import time
from typing import Any

from lumenspark.errors import UserError
from lumenspark.final_report import finish
from lumenspark.recipe import Recipe, load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.runs.environment import describe_environment
from lumenspark.runs.run import Run, get_run, new_run, tidy_runs
from lumenspark.training.budget import fit_budget
from lumenspark.training.repair import explaining_disk_errors, repair_side_files
from lumenspark.training.scaling import check_starts_afresh, scaled
from lumenspark.training.session import Session
from lumenspark.training.setup import Setup, set_up
from lumenspark.training.teachers import train_teachers
from lumenspark.training.trainer import Trainer


def train(
    recipe: str | Recipe = "lumiere-1m",
    *,
    size: str | None = None,
    reporter: Reporter | None = None,
    started: float | None = None,
    **overrides: Any,
) -> Run:
    """Train a recipe, evaluate its best checkpoint, write curves and card. Returns the run.

    ``recipe`` is a preset's name, a path to a YAML file, or a :class:`Recipe`. A ``size`` such as
    ``"3m"`` scales it (:func:`~lumenspark.training.scaling.scaled`). ``overrides`` are its keys:
    ``data="…"``, ``budget="5m"``, ``train={"steps": 500}``; naming the steps drops a preset's
    budget. A budget counts from ``started`` (``time.monotonic()``; now unless given).

    Raises UserError for invalid settings, and
    :class:`~lumenspark.training.interrupts.Stopped` when interrupted.
    """
    started = time.monotonic() if started is None else started
    reporter = reporter or Reporter()
    tidy_runs()
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if size is None:
        wanted = with_overrides(loaded, overrides)
    else:
        wanted = with_overrides(scaled(loaded, size), overrides)
        check_starts_afresh(wanted)
    setup = fit_budget(set_up(wanted, reporter), started, reporter)
    run = new_run(setup.recipe, environment_of(setup))
    reporter.say(f"run {run.id}, in {run.path}")
    with explaining_disk_errors(f"lumenspark resume {run.id}"):
        train_in(run, setup, reporter, budget_from=started)
        finish(run, setup, reporter)
    return run


def resume(name: str, *, reporter: Reporter | None = None) -> Run:
    """Resume a run from its newest valid checkpoint, and finish it as :func:`train` would have.

    A run that was stopped before its first checkpoint begins at step 0. Files that only describe
    the run are set aside if they are damaged, and generated again.
    """
    reporter = reporter or Reporter()
    run = get_run(name)
    recipe = run.recipe()
    _check_goes_on(run)
    tidy_runs()
    setup = set_up(recipe, reporter)
    with explaining_disk_errors(f"lumenspark resume {run.id}"):
        for problem in repair_side_files(run, {"run": run.id} | environment_of(setup)):
            reporter.say(problem)
        _check_text(run, setup)
        train_in(run, setup, reporter)
        finish(run, setup, reporter)
    return run


def environment_of(setup: Setup) -> dict[str, Any]:
    """The content of environment.json for a run that starts with ``setup``."""
    return describe_environment(setup.recipe, setup.corpus, setup.tokens, setup.model)


def train_in(
    run: Run, setup: Setup, reporter: Reporter, budget_from: float | None = None
) -> Session:
    """Train ``run`` from its current step to the last, teachers first.

    ``budget_from``: when a budget began that is fitted again after the teachers are trained.
    """
    samples = None
    if setup.recipe.distill.teachers:
        samples = train_teachers(setup, run, reporter)
        if budget_from is not None:
            setup = fit_budget(setup, budget_from, reporter, samples)
            run.write_recipe(setup.recipe)
    reporter.say(f"{setup.recipe.train.steps} steps")
    trainer = Trainer(setup, reporter, samples)
    return trainer.resume(run) if run.has_checkpoints() else trainer.train(run)


def _check_goes_on(run: Run) -> None:
    """Raise UserError for a folder with a recipe that is not a run, or has no checkpoints."""
    begun = run.checkpoints.is_dir() and (run.has_checkpoints() or not any(run.metrics()))
    if not begun:
        raise UserError(
            f"{run.path} holds no checkpoint to resume from: train a new run, with "
            f"`lumenspark train {run.path / 'recipe.yaml'}`"
        )


def _check_text(run: Run, setup: Setup) -> None:
    """Raise UserError if the token ids of the text differ from those at the start of the run.

    Token counts are compared too: earlier versions read some files differently under one digest.
    """
    environment = run.environment()
    counts = {name: len(split.ids) for name, split in setup.tokens.splits.items()}
    same = environment["tokens_digest"] == setup.tokens.digest
    if not same or environment["corpus"]["tokens"] != counts:
        raise UserError(
            f"the text of run {run.id} has changed since it began: {setup.recipe.data} gives "
            "other tokens now, so put it back as it was, or train a new run"
        )
