"""In which order a sweep tries what: a grid, or Optuna's sampler and pruner."""

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any

from lumenspark.errors import UserError
from lumenspark.sweep.space import Range, Space
from lumenspark.sweep.trials import Trial


class Grid:
    """Every combination of the listed values; the last key changes fastest."""

    def __init__(self, values: Mapping[str, list[Any]]) -> None:
        self.count = math.prod(map(len, values.values()))
        combinations = itertools.product(*values.values())
        self._proposals = (dict(zip(values, each, strict=True)) for each in combinations)

    def propose(self) -> dict[str, Any]:
        """The next trial's values."""
        return next(self._proposals)

    def is_hopeless(self, losses: list[float]) -> bool:
        """Whether to give up the proposed trial after the seeds that gave ``losses``: never."""
        return False

    def learn(self, trial: Trial) -> None:
        """Take in what came of the proposed trial. It changes nothing in a grid."""


class Sampler:
    """Optuna's TPE sampler and median pruner with their own defaults, from a seed.

    So the first 10 trials are drawn at random, the others where trials were good. Once 5 trials are
    complete, one is given up when all its means so far (after the first seed, after two, …) are
    above the median of what the complete ones had after as many seeds.
    """

    def __init__(self, space: Space, trials: int, seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "--trials draws them with Optuna, which is not installed: "
                "pip install 'lumenspark[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.count = trials
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner()
        )
        self._distributions = {key: _distribution(choices) for key, choices in space.items()}

    def propose(self) -> dict[str, Any]:
        """The next trial's values."""
        self._trial = self._study.ask(self._distributions)
        return {key: self._trial.params[key] for key in self._distributions}

    def is_hopeless(self, losses: list[float]) -> bool:
        """Whether to give up the proposed trial after the seeds that gave ``losses``."""
        self._trial.report(statistics.fmean(losses), step=len(losses))
        return bool(self._trial.should_prune())

    def learn(self, trial: Trial) -> None:
        """Take in what came of the proposed trial."""
        from optuna.trial import TrialState

        if trial.complete:
            self._study.tell(self._trial, trial.mean)
        else:  # to the sampler these are worse than every complete one
            self._study.tell(self._trial, state=TrialState.PRUNED)


def make_search(space: Space, trials: int | None, seed: int) -> Grid | Sampler:
    """A grid of lists; so many ``trials`` of lists and ranges by Optuna.

    Raises UserError for a range without a number of trials, and where Optuna is missing.
    """
    ranges = [key for key, choices in space.items() if isinstance(choices, Range)]
    if trials is None and ranges:
        raise UserError(f"{ranges[0]} is a range: say how many to draw from it, as in --trials 20")
    if trials is None:
        return Grid({key: choices for key, choices in space.items() if isinstance(choices, list)})
    if trials < 1:
        raise UserError(f"a sweep needs at least one trial, not {trials}")
    return Sampler(space, trials, seed)


def _distribution(choices: list[Any] | Range) -> Any:
    from optuna import distributions

    if isinstance(choices, list):
        return distributions.CategoricalDistribution(choices)
    if isinstance(choices.low, int) and isinstance(choices.high, int):
        return distributions.IntDistribution(choices.low, choices.high, log=choices.log)
    return distributions.FloatDistribution(choices.low, choices.high, log=choices.log)
