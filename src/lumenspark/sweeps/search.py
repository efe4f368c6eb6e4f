"""Search strategies of a sweep: grid, or Optuna's sampler and pruner."""

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any

from lumenspark.errors import UserError
from lumenspark.sweeps.space import Range, Space
from lumenspark.sweeps.trials import Trial


class Grid:
    """All combinations of the listed values; the last key changes fastest."""

    def __init__(self, values: Mapping[str, list[Any]]) -> None:
        self.count = math.prod(map(len, values.values()))
        combinations = itertools.product(*values.values())
        self._proposals = (dict(zip(values, each, strict=True)) for each in combinations)

    def propose(self) -> dict[str, Any]:
        """The next trial's values."""
        return next(self._proposals)

    def should_prune(self, losses: list[float]) -> bool:
        """Whether to prune the proposed trial after seeds with ``losses``: never."""
        return False

    def report(self, trial: Trial) -> None:
        """Record the result of the proposed trial; no effect in a grid."""


class Sampler:
    """Optuna's TPE sampler and median pruner with default settings and a fixed seed.

    The first 10 trials are random, the others follow TPE. After 5 complete trials, a trial is
    pruned if its mean losses after 1, 2, … seeds are all above the median of complete trials after
    as many seeds.
    """

    def __init__(self, space: Space, trials: int, seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "--trials needs Optuna, which is not installed: pip install 'lumenspark[sweep]'"
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

    def should_prune(self, losses: list[float]) -> bool:
        """Whether to prune the proposed trial after seeds with ``losses``."""
        self._trial.report(statistics.fmean(losses), step=len(losses))
        return bool(self._trial.should_prune())

    def report(self, trial: Trial) -> None:
        """Record the result of the proposed trial."""
        from optuna.trial import TrialState

        if trial.complete:
            self._study.tell(self._trial, trial.mean)
        else:  # TPE ranks pruned trials below complete ones
            self._study.tell(self._trial, state=TrialState.PRUNED)


def make_search(space: Space, trials: int | None, seed: int) -> Grid | Sampler:
    """A grid of lists; with ``trials``, an Optuna search of lists and ranges.

    Raises UserError for a range without ``trials``, and without Optuna.
    """
    ranges = [key for key, choices in space.items() if isinstance(choices, Range)]
    if trials is None and ranges:
        raise UserError(f"{ranges[0]} is a range: give the number of trials, as in --trials 20")
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
