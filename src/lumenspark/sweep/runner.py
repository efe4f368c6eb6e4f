"""Sweeps: trials of one recipe with some of its values changed, each trained with several seeds.

Trials are compared by their loss on the validation split; the test split is never scored. A sweep
lies in ``runs/sweeps/NAME/``, where NAME ends in a digest of everything that was asked, the text
included: ``sweep.json`` says what that was, ``results.jsonl`` holds a line for each finished trial,
and each training is a run folder. So the same call finds the same folder again: finished trials are
read, and the training that was stopped goes on from its checkpoint. The trials themselves are
proposed anew each time, and are the same: a grid has one order, and Optuna's sampler is seeded and
told the same results.
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
from lumenspark.resolve import open_recipe_corpus, prepare_recipe_tokens, with_full_names
from lumenspark.runs.checkpoint import State, prune_checkpoints
from lumenspark.runs.run import Run, make_run, runs_folder, tidy_runs
from lumenspark.sweep.search import Grid, Sampler, make_search
from lumenspark.sweep.space import Range, Space, changes_cost, make_space
from lumenspark.sweep.trials import Training, Trial, best_first, read_trials, write_trials
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
    """Train ``recipe`` with varied values, each with several seeds. Returns the trials, best first.

    ``vary`` maps dotted keys to a list of values or to text: ``"32,64"``, ``"0.005..0.05"``. Lists
    make a grid. With ``trials``, so many are drawn from lists and ranges by Optuna's TPE sampler,
    and its median pruner may end a trial between two seeds. A range is spread evenly, its logarithm
    instead where both ends are positive and a factor of 10 or more apart; of a key that holds whole
    numbers it gives whole numbers. ``seeds``: how many, from the recipe's on, in every trial.

    A budget becomes a number of steps once, in the first training, which the others take too. Only
    where a varied key may change what a step costs (:func:`.space.changes_cost`) is each of its
    values measured. The text is prepared before, and counts for no training's budget.

    ``recipe`` and ``overrides`` are those of :func:`lumenspark.train`. Raises UserError for what
    cannot work, before anything is trained, and :class:`~lumenspark.training.trainer.Stopped` when
    asked to stop, after saving.
    """
    reporter = reporter or Reporter()
    tidy_runs()
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    base = with_full_names(with_overrides(loaded, overrides))
    space = make_space(base, vary)
    search = make_search(space, trials, base.seed)
    if seeds < 1:
        raise UserError(f"a sweep needs at least one seed, not {seeds}")
    with_overrides(base, {"seed": base.seed + seeds - 1})  # raises where it is too large
    seeds_used = [base.seed + index for index in range(seeds)]
    corpus = open_recipe_corpus(base)
    tokens = prepare_recipe_tokens(base, corpus, reporter.say)
    _check_models(base, space, tokens)
    asked = {
        "recipe": asdict(base),
        "vary": {key: asdict(c) if isinstance(c, Range) else c for key, c in space.items()},
        "seeds": seeds_used,
        "trials": trials,
        "optuna": None if trials is None else version("optuna"),  # another one may draw others
        "tokens_digest": tokens.digest,
    }
    folder = _folder_of(asked)
    with (
        locked(folder, f"another process is at work on the sweep in {folder}"),
        explaining_disk_errors("the same command"),
    ):
        write_json(folder / "sweep.json", asked)
        running = _Running(base, search, seeds_used, tokens.digest, folder, reporter)
        return best_first(running.run())


def _check_models(base: Recipe, space: Space, tokens: PreparedTokens) -> None:
    """Raise UserError for a device that is missing, and for shapes that make no model."""
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
        with torch.device("meta"):  # shapes without numbers
            new_model(recipe, tokenizer, tokens.vocab_size)


def _folder_of(asked: Mapping[str, Any]) -> Path:
    """Made if need be. It lies below the runs' folder, where nobody looks for single runs."""
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "-", asked["recipe"]["name"])
    folder = runs_folder() / "sweeps" / f"{name}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the sweep's folder {folder}: {error.strerror}; choose another place "
            "with LUMENSPARK_RUNS"
        ) from error
    return folder


@dataclass
class _Running:
    """A sweep at work in its folder."""

    base: Recipe
    search: Grid | Sampler
    seeds: list[int]
    tokens_digest: str
    folder: Path
    reporter: Reporter
    done: dict[str, Training] = field(default_factory=dict)
    """By values and seed: what was trained before, and for a proposal that comes twice."""
    fitted: dict[str, Run] = field(default_factory=dict)
    """By the values that change what a step costs: a run whose steps fit into the budget."""
    compiled_for: dict[str, Any] | None = None

    def run(self) -> list[Trial]:
        results = self.folder / "results.jsonl"
        finished, problem = read_trials(results)
        if problem is not None:
            self.reporter.say(f"{problem} (kept as {set_aside(results).name})")
        for trial in finished:
            _keep_the_best_only(self.folder, trial)  # it may have been killed before it did
            self.done |= {_key(trial.values, each.seed): each for each in trial.trainings}
        self.reporter.say(
            f"sweep {self.folder.name}: {self.search.count} trials with {len(self.seeds)} seeds "
            f"each, {len(finished)} of them finished, in {self.folder}"
        )
        trials: list[Trial] = []
        for number in range(1, self.search.count + 1):
            trials.append(self._trial(number, self.search.propose()))
            self.search.learn(trials[-1])
            if problem is not None or number > len(finished):
                write_trials(results, trials)
                _keep_the_best_only(self.folder, trials[-1])
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
            pruned = len(losses) < len(self.seeds) and self.search.is_hopeless(losses)
            if pruned:
                break
        return Trial(number, values, trainings, pruned)

    def _train(self, number: int, values: dict[str, Any], seed: int) -> Training:
        """From its beginning, or from where it was stopped, to its end; no evaluation, no card."""
        started = time.monotonic()
        chosen = ", ".join(f"{key} {value}" for key, value in values.items())
        self.reporter.say(f"trial {number} of {self.search.count}, seed {seed}: {chosen}")
        run = _run_of(self.folder, number, seed)
        goes_on = _goes_on(run)
        reporter = _Indented(self.reporter.console)
        setup = set_up(run.recipe() if goes_on else self._recipe(values, seed), reporter)
        if setup.tokens.digest != self.tokens_digest:
            raise UserError("the text has changed since the sweep began: start it again")
        self._forget_other_shapes(values)
        fits = setup.recipe.budget is not None and not goes_on and _cost(values) not in self.fitted
        if fits:
            setup = fit_budget(setup, started, reporter)
        if goes_on:
            environment = {"run": f"{self.folder.name}/{run.id}"} | environment_of(setup)
            for problem in repair_side_files(run, environment):
                reporter.say(problem)
        else:
            _lay_out(run, setup)
        try:
            session = train_in(run, setup, reporter, started if fits else None)
        except DivergedError as error:
            return self._outcome(run, error.state, diverged=True)
        if session.stop.signal is not None:  # it arrived during the last step
            raise Stopped(run.id, session.stop.signal)
        return self._outcome(run, session.state, diverged=False)

    def _forget_other_shapes(self, values: dict[str, Any]) -> None:
        """Trainings that differ by seed and optimizer share what is compiled, and no others.

        Else torch would compile the next shapes as variable ones, which is slower, and no more than
        a few.
        """
        shapes = {key: value for key, value in values.items() if not key.startswith("optim.")}
        if shapes != self.compiled_for:
            torch.compiler.reset()
            self.compiled_for = shapes

    def _recipe(self, values: dict[str, Any], seed: int) -> Recipe:
        """The recipe of a training; under a budget with as many steps as others of its cost."""
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
    """What a single training says, below what the sweep says."""

    def say(self, sentence: str) -> None:
        super().say(f"  {sentence}")


def _goes_on(run: Run) -> bool:
    """Whether a training was begun here that can be gone on with; what else is here is put aside.

    Of a trial whose line in the results was lost, ``best`` alone is left.
    """
    if not os.path.lexists(run.path):
        return False
    left = [path.name for path in run.checkpoints.glob("[!.]*")] if run.path.is_dir() else []
    whole = (run.path / "recipe.yaml").is_file() and run.checkpoints.is_dir() and left != ["best"]
    if not whole:
        set_aside(run.path)
    return whole


def _lay_out(run: Run, setup: Setup) -> None:
    """A run's folder, as a training begins with it."""
    identity = f"{run.path.parent.name}/{run.id}"  # trials of other sweeps are called alike
    make_run(run.path, setup.recipe, {"run": identity} | environment_of(setup))


def _run_of(folder: Path, number: int, seed: int) -> Run:
    """Where a trial trains with a seed. What ``results.jsonl`` says of it may be another folder."""
    return Run(folder / f"trial-{number:03d}-seed-{seed}")


def _keep_the_best_only(folder: Path, trial: Trial) -> None:
    """Delete what a trial's trainings could be resumed from: it is larger than the models."""
    for training in trial.trainings:
        run = _run_of(folder, trial.number, training.seed)
        for checkpoints in run.path.rglob("checkpoints"):  # its teachers' too
            prune_checkpoints(checkpoints, keep=0)
            delete(checkpoints / "last")


def _key(values: dict[str, Any], seed: int) -> str:
    return json.dumps([values, seed])


def _cost(values: dict[str, Any]) -> str:
    """Equal for trials whose steps cost the same."""
    return json.dumps({key: value for key, value in values.items() if changes_cost(key)})
