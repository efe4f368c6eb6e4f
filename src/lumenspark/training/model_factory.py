"""Models from recipes: with fresh weights, or to continue training. Memory is checked first."""

from dataclasses import asdict
from typing import Any

import torch

from lumenspark.device import choose_device
from lumenspark.errors import UserError, first_line
from lumenspark.loading import load
from lumenspark.memory import check_memory, on_meta, training_bytes
from lumenspark.models.registry import FAMILIES, LanguageModel
from lumenspark.recipe import Recipe, with_overrides

NO_TOKENS: dict[str, int | None] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def new_model(recipe: Recipe, tokenizer: Any, vocab_size: int) -> LanguageModel:
    """A model with fresh weights, determined by the recipe's seed, for ids below vocab_size."""
    torch.manual_seed(recipe.seed)
    return model_of(
        recipe,
        vocab_size=max(len(tokenizer), vocab_size),  # a tokenizer may leave ids unused
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def model_of(recipe: Recipe, **tokens: int | None) -> LanguageModel:
    """A model of the recipe's shape. Raises UserError if memory is too small to train it."""
    check_training_fits(recipe, tokens["vocab_size"] or 0)
    return _built(recipe, tokens)


def check_training_fits(recipe: Recipe, vocab_size: int) -> None:
    """Raise UserError if training the recipe needs more memory than the machine has.

    Only models of one and two blocks are built, on the meta device.
    """
    tokens = NO_TOKENS | {"vocab_size": vocab_size}
    try:
        one = on_meta(lambda: _built(recipe, tokens, layers=1))
        two = on_meta(lambda: _built(recipe, tokens, layers=2))
    except RuntimeError as error:  # a tensor has more elements than torch can count
        raise UserError(
            f"the recipe {recipe.name} describes a model that is too large for torch "
            f"({first_line(error)}): choose smaller values"
        ) from error
    needed = training_bytes(recipe, one, two)
    fix = "choose a smaller model, a shorter context or a smaller batch with more accumulation"
    check_memory(needed, f"the recipe {recipe.name}", choose_device(recipe.device), fix)


def model_to_continue(recipe: Recipe) -> tuple[LanguageModel, Recipe]:
    """The model that ``init_from`` names, and the recipe with its architecture.

    Raises UserError for a model of another family, and if memory is too small to train it.
    """
    model, _ = load(str(recipe.init_from))
    family = recipe.model.family
    if not isinstance(model, FAMILIES[family].language_model):
        raise UserError(
            f"init_from must name a model of the recipe's family, {family}, and "
            f"{recipe.init_from} is a {type(model).__name__}"
        )
    model.config.dropout = recipe.model.dropout
    check_memory(
        training_bytes(recipe, model),
        f"training from {recipe.init_from}",
        choose_device(recipe.device),
        "choose a smaller batch with more accumulation",
    )
    fields = set(asdict(recipe.model)) - {"family"}
    return model, with_overrides(recipe, {f"model.{f}": getattr(model.config, f) for f in fields})


def _built(recipe: Recipe, tokens: dict[str, int | None], layers: int | None = None) -> Any:
    architecture = asdict(recipe.model)
    family = FAMILIES[architecture.pop("family")]
    try:
        config = family.config(**architecture, **tokens)
        if layers is not None:
            config.num_hidden_layers = layers
        return family.language_model(config)
    except ValueError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from error
