"""Everything that a training needs, made from a recipe: corpus, tokens, model and loss."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lumenspark.data.cache_folder import cache_folder
from lumenspark.data.corpora import Corpus
from lumenspark.data.tokenizer import SMALLEST, load_tokenizer, to_transformers
from lumenspark.data.tokens import PreparedTokens
from lumenspark.device import attention_for, choose_compile, prepare_process
from lumenspark.errors import UserError, first_line
from lumenspark.inspect.recording import TEXT_TOKENS
from lumenspark.inspect.recording import Recorder as ModelRecorder
from lumenspark.quiet import quiet_transformers
from lumenspark.recipe import Recipe, parse_duration
from lumenspark.reporter import Reporter
from lumenspark.resolve import open_recipe_corpus, prepare_recipe_tokens, resolve, with_corpus
from lumenspark.training.batches import Batches
from lumenspark.training.losses import Loss, make_loss
from lumenspark.training.model_factory import check_training_fits, model_to_continue, new_model
from lumenspark.training.trackers import tracker_module


class Recorder(Protocol):
    """Inspects the model before and after a step, without changing it."""

    def before_step(self) -> None: ...

    def record(self, gradient_scale: float) -> dict[str, float]: ...


@dataclass(frozen=True)
class Setup:
    """The inputs of a trainer. In its recipe, every ``auto`` is resolved.

    ``loss`` is compiled if the recipe says so. ``recorder`` inspects the model every
    ``inspect.every`` steps; None if that is 0.
    """

    recipe: Recipe
    corpus: Corpus
    tokens: PreparedTokens
    tokenizer: Any
    model: Any
    loss: Loss
    recorder: Recorder | None = None


def set_up(recipe: Recipe, reporter: Reporter, dry_run: bool = False) -> Setup:
    """Open the corpus, prepare its tokens and create the model. Raises UserError if one fails.

    In a dry run nothing is compiled.
    """
    quiet_transformers()
    recipe = resolve(recipe)
    prepare_process(recipe.device, recipe.train.threads, cache_folder())
    if recipe.train.tracker != "none":
        tracker_module(recipe.train.tracker)
    if not recipe.init_from:  # before reading text, with the smallest vocabulary
        check_training_fits(recipe, SMALLEST)
    corpus = open_recipe_corpus(recipe, reporter.say)
    recipe = with_corpus(recipe, corpus)
    tokens = prepare_recipe_tokens(recipe, corpus, reporter.say)
    model, tokenizer, recipe = _model_and_tokenizer(recipe, tokens)
    model.set_attn_implementation(attention_for(recipe.device, recipe.model.context))
    model.to(recipe.device)
    reporter.say(
        f"{recipe.name}: {sum(p.numel() for p in model.parameters()):,} parameters on "
        f"{recipe.device} ({recipe.train.precision}, {torch.get_num_threads()} threads)"
    )
    loss, compiled = _loss(recipe, model, tokens, reporter, dry_run)
    train = replace(
        recipe.train,
        compile="on" if compiled else "off",
        prompt=corpus.prompt if recipe.train.prompt is None else recipe.train.prompt,
    )
    recorder = None
    if recipe.inspect.every:
        recorder = ModelRecorder(model, _recorded_text(recipe, tokens))
    return Setup(replace(recipe, train=train), corpus, tokens, tokenizer, model, loss, recorder)


def _model_and_tokenizer(recipe: Recipe, tokens: PreparedTokens) -> tuple[Any, Any, Recipe]:
    """Model, tokenizer, and the recipe, with the architecture of ``init_from`` if it is set."""
    if recipe.init_from:
        tokenizer = load_tokenizer(recipe.init_from)
        model, recipe = model_to_continue(recipe)
        return model, tokenizer, recipe
    if recipe.tokenizer.name:
        tokenizer = load_tokenizer(recipe.tokenizer.name)
    else:
        tokenizer = to_transformers(tokens.tokenizer, recipe.model.context)
    return new_model(recipe, tokenizer, tokens.vocab_size), tokenizer, recipe


def _loss(
    recipe: Recipe, model: Any, tokens: PreparedTokens, reporter: Reporter, dry_run: bool
) -> tuple[Loss, bool]:
    """The loss, and whether it is compiled: if this saves time and the compiler works."""
    asked = recipe.train.compile
    seconds = parse_duration(recipe.budget) if recipe.budget else None
    compiled, why = choose_compile(asked, recipe.device, seconds, recipe.train.steps)
    if compiled and dry_run:
        compiled, why = False, "steps are timed without torch.compile, which a training would use"
    bf16 = recipe.train.precision == "bf16"
    loss = make_loss(model, recipe.device, bf16, recipe.distill.weight)
    if not compiled:
        reporter.say(why)
        return loss, False
    batches = Batches(tokens.splits["train"].ids, recipe)
    try:
        with reporter.working(why):
            return _compiled(loss, model, batches.token_ids(0)[0]), True
    except Exception as error:  # compilers raise any exception; the run can continue
        reason = first_line(error)
        if asked == "on":
            raise UserError(f"torch.compile failed: {reason}; use train.compile off") from error
        reporter.say(f"torch.compile failed, so the run continues without it: {reason}")
        return loss, False


def _compiled(loss: Loss, model: Any, windows: Tensor) -> Loss:
    """Compile and try ``loss`` on ``windows`` (B, T + 1). Raises any exception."""
    compiled: Loss = torch.compile(loss)
    model.train()
    compiled(windows).backward()
    return compiled


def _recorded_text(recipe: Recipe, tokens: PreparedTokens) -> Tensor:
    """Validation text (B, T), in windows of the context, for the recorder's logit lens."""
    ids = tokens.splits["validation"].ids
    length = min(recipe.model.context, TEXT_TOKENS, len(ids))
    count = min(TEXT_TOKENS, len(ids)) // length
    return torch.from_numpy(ids[: count * length].astype(np.int64)).view(count, length)
