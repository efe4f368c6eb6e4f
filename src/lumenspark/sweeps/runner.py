"""Hyperparameter sweeps: trials of a recipe with varied values, each with several seeds.

Trials are ranked by validation loss; the test split is never scored. A sweep is stored in
``runs/sweeps/NAME/``, where NAME ends in a digest of all settings and the corpus: ``sweep.json``
has the settings, ``results.jsonl`` one line per finished trial, and each training is a run folder.
The same call finds the same folder: finished trials are read, and an interrupted training resumes
from its checkpoint. Trials are proposed again in the same order: a grid is ordered, and Optuna's
sampler has a fixed seed and gets the same results.
"""

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lumenspark.data.tokenizer import load_tokenizer, to_transformers
from lumenspark.data.tokens import PreparedTokens
from lumenspark.data.windows import TrainingWindows
from lumenspark.device import choose_device
from lumenspark.errors import UserError
from lumenspark.files import delete, locked, set_aside, write_json
from lumenspark.pipeline import environment_of, train_in
from lumenspark.recipe import Recipe, load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.resolve import (
    open_recipe_corpus,
    prepare_recipe_tokens,
    with_corpus,
    with_full_names,
)
from lumenspark.runs.checkpoint import State, prune_checkpoints
from lumenspark.runs.run import Run, make_run, runs_folder, tidy_runs
from lumenspark.sweeps.search import Grid, Sampler, make_search
from lumenspark.sweeps.space import Range, Space, changes_cost, make_space
from lumenspark.sweeps.trials import Training, Trial, best_first, read_trials, write_trials
from lumenspark.training.budget import fit_budget
from lumenspark.training.interrupts import Stopped
from lumenspark.training.model_factory import new_model
from lumenspark.training.repair import explaining_disk_errors, repair_side_files
from lumenspark.training.setup import Setup, set_up
from lumenspark.training.trainer import DivergedError


def sweep(
    recipe: str | Recipe = "lumiere-1m",
    *,
    vary: Mapping[str, str | Sequence[Any]],
    seeds: int = 3,
    trials: int | None = None,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> list[Trial]:
    """Train ``recipe`` with varied values and several seeds. Returns the trials, best first.

    ``vary`` maps dotted keys to a list of values or a string: ``"32,64"``, ``"0.005..0.05"``. Lists
    form a grid. With ``trials``, that many are sampled from lists and ranges by Optuna's TPE
    sampler, and its median pruner may stop a trial between seeds. Ranges are log-uniform if both
    ends are positive and at least a factor of 10 apart, else uniform; integer keys get integers.
    ``seeds``: number of seeds per trial, counted from the recipe's seed.

    A budget is converted to steps in the first training and reused by the others; if a varied key
    may change the cost of a step (:func:`.space.changes_cost`), each of its values is measured. The
    corpus is tokenized before, outside all budgets.

    ``recipe`` and ``overrides`` as in :func:`lumenspark.train`. Raises UserError for invalid
    settings, before training, and :class:`~lumenspark.training.trainer.Stopped` on a stop request,
    after saving.
    """
    reporter = reporter or Reporter()
    tidy_runs()
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    base = with_full_names(with_overrides(loaded, overrides))
    if base.train.sample_every is None:
        base = with_overrides(base, {"train.sample_every": 0})
    space = make_space(base, vary)
    search = make_search(space, trials, base.seed)
    if seeds < 1:
        raise UserError(f"a sweep needs at least one seed, not {seeds}")
    with_overrides(base, {"seed": base.seed + seeds - 1})  # raises if it is too large
    seeds_used = [base.seed + index for index in range(seeds)]
    corpus = open_recipe_corpus(base, reporter.say)
    base = with_corpus(base, corpus)  # all trainings read the same text
    tokens = prepare_recipe_tokens(base, corpus, reporter.say)
    _check_models(base, space, tokens)
    settings = {
        "recipe": asdict(base),
        "vary": {key: asdict(c) if isinstance(c, Range) else c for key, c in space.items()},
        "seeds": seeds_used,
        "trials": trials,
        "optuna": None if trials is None else version("optuna"),  # which determines sampling
        "tokens_digest": tokens.digest,
    }
    folder = _folder_of(settings)
    with (
        locked(folder, f"another process runs the sweep in {folder}"),
        explaining_disk_errors("the same command"),
    ):
        write_json(folder / "sweep.json", settings)
        sweep_run = _SweepRun(base, search, seeds_used, tokens.digest, folder, reporter)
        return best_first(sweep_run.run())


def _check_models(base: Recipe, space: Space, tokens: PreparedTokens) -> None:
    """Raise UserError for a missing device and for invalid model shapes."""
    keys = [key for key in space if key == "device" or key.startswith("model.")]
    choices = (space[key] for key in keys)
    ends = [[c.low, c.high] if isinstance(c, Range) else c for c in choices]
    for values in itertools.product(*ends):
        recipe = with_overrides(base, dict(zip(keys, values, strict=True)))
        choose_device(recipe.device)
        TrainingWindows(tokens.splits["train"].ids, recipe.model.context, recipe.seed)
        if recipe.init_from:
            continue
        if recipe.tokenizer.name:
            tokenizer = load_tokenizer(recipe.tokenizer.name)
        else:
            tokenizer = to_transformers(tokens.tokenizer, recipe.model.context)
        with torch.device("meta"):  # shapes only
            new_model(recipe, tokenizer, tokens.vocab_size)


def _folder_of(settings: Mapping[str, Any]) -> Path:
    """The folder of the sweep, created if missing, apart from single runs."""
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "-", settings["recipe"]["name"])
    folder = runs_folder() / "sweeps" / f"{name}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the sweep's folder {folder}: {error.strerror}; choose another folder "
            "with LUMENSPARK_RUNS"
        ) from error
    return folder


@dataclass
class _SweepRun:
    """State of a running sweep."""

    base: Recipe
    search: Grid | Sampler
    seeds: list[int]
    tokens_digest: str
    folder: Path
    reporter: Reporter
    done: dict[str, Training] = field(default_factory=dict)
    """Finished trainings by values and seed, also for repeated proposals."""
    fitted: dict[str, Run] = field(default_factory=dict)
    """By the values that change the cost of a step: a run whose steps fit the budget."""
    compiled_for: dict[str, Any] | None = None

    def run(self) -> list[Trial]:
        results = self.folder / "results.jsonl"
        finished, problem = read_trials(results)
        if problem is not None:
            self.reporter.say(f"{problem} (kept as {set_aside(results).name})")
        for trial in finished:
            _delete_resume_checkpoints(self.folder, trial)  # a killed sweep may not have
            self.done |= {_key(trial.values, each.seed): each for each in trial.trainings}
        self.reporter.say(
            f"sweep {self.folder.name}: {self.search.count} trials with {len(self.seeds)} seeds "
            f"each, {len(finished)} of them finished, in {self.folder}"
        )
        trials: list[Trial] = []
        for number in range(1, self.search.count + 1):
            trials.append(self._trial(number, self.search.propose()))
            self.search.report(trials[-1])
            if problem is not None or number > len(finished):
                write_trials(results, trials)
                _delete_resume_checkpoints(self.folder, trials[-1])
        return trials

    def _trial(self, number: int, values: dict[str, Any]) -> Trial:
        trainings: list[Training] = []
        losses: list[float] = []
        pruned = False
        for seed in self.seeds:
            key = _key(values, seed)
            if key not in self.done:
                self.done[key] = self._train(number, values, seed)
            trainings.append(self.done[key])
            self.fitted.setdefault(_cost(values), Run(Path(trainings[-1].run)))
            if trainings[-1].loss is None:
                break
            losses.append(trainings[-1].loss)
            pruned = len(losses) < len(self.seeds) and self.search.should_prune(losses)
            if pruned:
                break
        return Trial(number, values, trainings, pruned)

    def _train(self, number: int, values: dict[str, Any], seed: int) -> Training:
        """Start or resume a training and finish it, without evaluation and model card."""
        started = time.monotonic()
        chosen = ", ".join(f"{key} {value}" for key, value in values.items())
        self.reporter.say(f"trial {number} of {self.search.count}, seed {seed}: {chosen}")
        run = _run_of(self.folder, number, seed)
        resumes = _can_resume(run)
        reporter = _Indented(self.reporter.console)
        self._forget_other_shapes(values)
        setup = set_up(run.recipe() if resumes else self._recipe(values, seed), reporter)
        if setup.tokens.digest != self.tokens_digest:
            raise UserError("the corpus has changed since the sweep started: start a new one")
        fits = setup.recipe.budget is not None and not resumes and _cost(values) not in self.fitted
        if fits:
            setup = fit_budget(setup, started, reporter)
        if resumes:
            environment = {"run": f"{self.folder.name}/{run.id}"} | environment_of(setup)
            for problem in repair_side_files(run, environment):
                reporter.say(problem)
        else:
            _lay_out(run, setup)
        try:
            session = train_in(run, setup, reporter, started if fits else None)
            diverged = False
        except DivergedError as error:
            session, diverged = error.session, True
        if session.stop.signal is not None:  # during the last step
            raise Stopped(run.id, session.stop.signal)
        # The session of a teacher that diverged is not that of the run, which did not start.
        state = session.state if session.run == run else State()
        return self._outcome(run, state, diverged)

    def _forget_other_shapes(self, values: dict[str, Any]) -> None:
        """Reset torch.compile unless only seed and optimizer differ from the last training.

        Otherwise torch would compile the next shapes as dynamic ones, which are slower, and would
        reach its recompile limit.
        """
        shapes = {key: value for key, value in values.items() if not key.startswith("optim.")}
        if shapes != self.compiled_for:
            torch.compiler.reset()
            self.compiled_for = shapes

    def _recipe(self, values: dict[str, Any], seed: int) -> Recipe:
        """The recipe of a training; with a budget, the steps of trials of equal cost."""
        recipe = with_overrides(self.base, {**values, "seed": seed})
        fitted = self.fitted.get(_cost(values))
        if recipe.budget is None or fitted is None:
            return recipe
        like = fitted.recipe()
        steps = {"train.steps": like.train.steps, "distill.steps": like.distill.steps}
        return with_overrides(recipe, {"budget": recipe.budget, **steps})

    def _outcome(self, run: Run, state: State, diverged: bool) -> Training:
        recipe = run.recipe()
        training = Training(
            seed=recipe.seed,
            loss=None if diverged else state.best_loss,
            best_step=state.best_step,
            steps=state.step,
            tokens=state.step * recipe.tokens_per_step,
            seconds=state.seconds,
            run=str(run.path),
        )
        found = "it diverged" if training.loss is None else f"validation loss {training.loss:.4f}"
        self.reporter.say(f"  {found}, {state.step} steps in {state.seconds:.0f} s")
        return training


class _Indented(Reporter):
    """Indents the messages of single trainings."""

    def say(self, message: str) -> None:
        super().say(f"  {message}")


def _can_resume(run: Run) -> bool:
    """Whether the run can be resumed; other content of the folder is set aside.

    A trial whose results line was lost has ``best`` alone.
    """
    if not os.path.lexists(run.path):
        return False
    left = [path.name for path in run.checkpoints.glob("[!.]*")] if run.path.is_dir() else []
    whole = (run.path / "recipe.yaml").is_file() and run.checkpoints.is_dir() and left != ["best"]
    if not whole:
        set_aside(run.path)
    return whole


def _lay_out(run: Run, setup: Setup) -> None:
    """Create the run folder of a training."""
    identity = f"{run.path.parent.name}/{run.id}"  # other sweeps have the same trial names
    make_run(run.path, setup.recipe, {"run": identity} | environment_of(setup))


def _run_of(folder: Path, number: int, seed: int) -> Run:
    """The run of a trial and seed, which may differ from the one in ``results.jsonl``."""
    return Run(folder / f"trial-{number:03d}-seed-{seed}")


def _delete_resume_checkpoints(folder: Path, trial: Trial) -> None:
    """Keep only ``best`` of each training; resume checkpoints are larger than the model."""
    for training in trial.trainings:
        run = _run_of(folder, trial.number, training.seed)
        for checkpoints in run.path.rglob("checkpoints"):  # including teachers
            prune_checkpoints(checkpoints, keep=0)
            delete(checkpoints / "last")


def _key(values: dict[str, Any], seed: int) -> str:
    return json.dumps([values, seed])


def _cost(values: dict[str, Any]) -> str:
    """Equal for trials with the same cost per step."""
    return json.dumps({key: value for key, value in values.items() if changes_cost(key)})
