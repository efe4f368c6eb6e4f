"""Key names in the files of runs started before 2026-11-27, mapped to current names.

Applied to files of runs only, not to recipes written by users.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

RECIPE_KEYS = {
    "optim": {"decay": "cooldown", "clip": "max_grad_norm"},
    "train": {
        "accumulation": "gradient_accumulation_steps",
        "average": "ema_decay",
        "patience": "early_stopping_patience",
        "keep": "keep_checkpoints",
    },
    "distill": {"share": "budget_fraction"},
}
TRAINER_STATE = {"rate": "lr_scale"}


def with_current_keys(recipe: Any) -> Any:
    """The content of a run's recipe.yaml, with earlier keys renamed.

    A budget without a unit was a number of seconds.
    """
    content = _renamed_sections(recipe, RECIPE_KEYS)
    budget = content.get("budget") if isinstance(content, Mapping) else None
    if isinstance(budget, str) and re.fullmatch(r"\d+(\.\d+)?", budget.strip()):
        content["budget"] = f"{budget.strip()}s"
    return content


def with_earlier_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of :func:`with_current_keys`: digests of earlier runs are over these names."""
    reverse = {s: {new: old for old, new in names.items()} for s, names in RECIPE_KEYS.items()}
    return dict(_renamed_sections(recipe, reverse))


def _renamed_sections(recipe: Any, sections: Mapping[str, Mapping[str, str]]) -> Any:
    if not isinstance(recipe, Mapping):
        return recipe  # validation of the recipe reports it
    content = dict(deepcopy(recipe))
    for section, names in sections.items():
        if isinstance(content.get(section), Mapping):
            content[section] = renamed(content[section], names)
    return content


def renamed(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A copy with the keys of ``names`` replaced by its values."""
    return {names.get(key, key) if isinstance(key, str) else key: content[key] for key in content}
