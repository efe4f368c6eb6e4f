"""How often a text is read: as often as that helps, and not more.

A model that reads a small text again and again learns it by heart, and predicts other text worse.
"""

from lumenspark.recipe import Recipe

# Up to half a token of text for each parameter, the test loss is lowest after 4 to 5 epochs
# (benchmarks/epochs.py). With 2.7 tokens for each it still falls between 4.3 and 9.6 epochs
# (docs/figures.md).
EPOCHS = 4.5
PER_PARAMETER = 0.5
EXPONENT = 0.5


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
