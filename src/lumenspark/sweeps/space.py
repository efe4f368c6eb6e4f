"""The search space of a sweep: lists of values and ranges, validated against the recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lumenspark.errors import UserError, did_you_mean
from lumenspark.recipe import Recipe, with_overrides

FIXED_KEYS = ("data", "corpus", "tokenizer", "init_from", "train.validation_windows")
"""Keys and sections that change the meaning of the validation loss."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, inclusive; integers for an integer key."""

    low: float
    high: float

    @property
    def log(self) -> bool:
        """Whether sampling is log-uniform: for positive ends at least a factor of 10 apart."""
        return self.low > 0 and self.high >= 10 * self.low


Space = dict[str, list[Any] | Range]
"""Choices by dotted key."""


def make_space(recipe: Recipe, vary: Mapping[str, str | Sequence[Any]]) -> Space:
    """Parse lists and strings (``"32,64"``, ``"0.005..0.05"``) into typed choices.

    Raises UserError for unknown keys, invalid values, and keys that make validation losses
    incomparable.
    """
    if not vary:
        raise UserError("give a key to vary, such as --vary optim.muon_lr=0.01,0.02,0.04")
    for key in vary:
        _check_key(recipe, key)
    return {key: _choices(recipe, key, given) for key, given in vary.items()}


def changes_cost(key: str) -> bool:
    """Whether the key may change the cost of a step: all but numbers of optimizer and loss."""
    is_number = key.startswith("optim.") and key != "optim.name"
    return not is_number and key != "distill.weight"


def _check_key(recipe: Recipe, key: str) -> None:
    keys = list(_flat(asdict(recipe)))
    if key not in keys:
        raise UserError(f"{recipe.name}: unknown key {key}{did_you_mean(key, keys)}")
    if key == "seed":
        raise UserError("seed cannot vary: use --seeds 5 for five seeds per trial")
    if key in FIXED_KEYS or key.split(".")[0] in FIXED_KEYS:
        raise UserError(
            f"{key} cannot vary: it changes the validation loss itself, so trials are not "
            "comparable; run one sweep per value"
        )
    if recipe.init_from and key.startswith("model.") and key != "model.dropout":
        raise UserError(f"{key} cannot vary: init_from determines the architecture")
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
            raise UserError(f"{key} has the value {value} twice: give each once")
    return values


def _range(key: str, low: Any, high: Any) -> Range:
    if {type(low), type(high)} not in ({int}, {float}) or not math.isfinite(high):
        raise UserError(f"{key} takes no range, since its values are not numbers: list values")
    if isinstance(low, int) and key.startswith("model."):
        raise UserError(f"{key} takes no range, since not every integer fits a model: list values")
    if low >= high:
        raise UserError(f"{key} has the range {low}..{high}: write the lower end first")
    return Range(low, high)


def _typed(recipe: Recipe, key: str, value: Any) -> Any:
    """``value`` converted to the type of the key. Raises UserError for an invalid one."""
    if isinstance(value, str):
        value = value.strip()
        if not value:
            raise UserError(f"{key} has an empty value: write {key}=A,B,C or {key}=LOW..HIGH")
        value = None if value in {"None", "null"} else value
    return _flat(asdict(with_overrides(recipe, {key: value})))[key]


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
