"""What a sweep may vary: lists of values and ranges, checked against the recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lumenspark.errors import UserError, did_you_mean
from lumenspark.recipe import Recipe, with_overrides

WHAT_IS_MEASURED = ("data", "corpus", "tokenizer", "init_from", "train.validation_windows")
"""Keys and sections that decide what a validation loss is the loss of."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where the recipe's key is."""

    low: float
    high: float

    @property
    def log(self) -> bool:
        """Whether its logarithm is spread evenly, not the number: positive ends, 10 times apart."""
        return self.low > 0 and self.high >= 10 * self.low


Space = dict[str, list[Any] | Range]
"""What each of some dotted keys may be."""


def make_space(recipe: Recipe, vary: Mapping[str, str | Sequence[Any]]) -> Space:
    """Lists of values, and text (``"32,64"``, ``"0.005..0.05"``), as what the recipe's keys hold.

    Raises UserError for unknown keys, for values that the recipe does not take, and for keys under
    which the validation losses of two trials could not be compared.
    """
    if not vary:
        raise UserError("say what to vary, such as --vary optim.muon_lr=0.01,0.02,0.04")
    for key in vary:
        _check_key(recipe, key)
    return {key: _choices(recipe, key, given) for key, given in vary.items()}


def changes_cost(key: str) -> bool:
    """Whether another value may make a step longer: all but the optimizer's and loss's numbers."""
    is_number = key.startswith("optim.") and key != "optim.name"
    return not is_number and key != "distill.weight"


def _check_key(recipe: Recipe, key: str) -> None:
    keys = list(_flat(asdict(recipe)))
    if key not in keys:
        raise UserError(f"{recipe.name}: there is no key {key} to vary{did_you_mean(key, keys)}")
    if key == "seed":
        raise UserError("seed cannot vary: --seeds 5 trains every trial with five of them")
    if key in WHAT_IS_MEASURED or key.split(".")[0] in WHAT_IS_MEASURED:
        raise UserError(
            f"{key} cannot vary: it decides what the validation loss measures, so trials could "
            "not be compared; run one sweep for each value"
        )
    if recipe.init_from and key.startswith("model.") and key != "model.dropout":
        raise UserError(f"{key} cannot vary: init_from brings the architecture")
    if recipe.budget and key == "distill.steps":
        raise UserError(f"{key} cannot vary: the budget sets it; give --train.steps instead")


def _choices(recipe: Recipe, key: str, given: str | Sequence[Any]) -> list[Any] | Range:
    if isinstance(given, str):
        low, dots, high = given.partition("..")
        if dots and "," not in given:
            return _range(key, _typed(recipe, key, low), _typed(recipe, key, high))
        given = given.split(",")
    values = [_typed(recipe, key, value) for value in given]
    if not values:
        raise UserError(f"{key} needs a value to try")
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{key} has the value {value} twice: name each once")
    return values


def _range(key: str, low: Any, high: Any) -> Range:
    if {type(low), type(high)} not in ({int}, {float}) or not math.isfinite(high):
        raise UserError(f"{key} takes no range, because its values are no numbers: list some")
    if isinstance(low, int) and key.startswith("model."):
        raise UserError(f"{key} takes no range, because not every number fits a model: list some")
    if low >= high:
        raise UserError(f"{key} has the range {low}..{high}: write the lower end first")
    return Range(low, high)


def _typed(recipe: Recipe, key: str, value: Any) -> Any:
    """``value``, text or not, as the recipe holds it. Raises UserError where it is wrong."""
    if isinstance(value, str):
        value = value.strip()
        if not value:
            raise UserError(f"{key} has an empty value: write {key}=A,B,C or {key}=LOW..HIGH")
        value = None if value in {"None", "null"} else value
    return _flat(asdict(with_overrides(recipe, {key: value})))[key]


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
