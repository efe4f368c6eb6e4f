"""How often a text is read: as often as that helps, and not more.

A model that reads a small text again and again learns it by heart, and predicts other text worse.
"""

from lumenspark.recipe import Recipe

# Where the test loss is lowest, measured by benchmarks/epochs.py (docs/figures.md).
EPOCHS = 5.0
PER_PARAMETER = 0.5  # tokens of text for each parameter, at which EPOCHS holds
EXPONENT = 0.3


def most_epochs(recipe: Recipe, train_tokens: int, parameters: int) -> float | None:
    """The most passes over ``train_tokens`` that help; None: no limit."""
    limit = recipe.train.max_epochs
    if limit != "auto":
        return limit
    ratio = train_tokens / parameters / PER_PARAMETER
    return float(EPOCHS * max(1.0, ratio) ** EXPONENT)


def most_steps(recipe: Recipe, train_tokens: int, parameters: int) -> int | None:
    """The steps of that many passes, at least one; None: no limit."""
    epochs = most_epochs(recipe, train_tokens, parameters)
    if epochs is None:
        return None
    return max(1, int(epochs * train_tokens / recipe.tokens_per_step))
