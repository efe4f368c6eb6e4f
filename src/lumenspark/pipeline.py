"""From a recipe to a trained, evaluated model with its card: what `lumenspark train` does."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lumenspark.data.cache import cache_folder
from lumenspark.data.corpora import Corpus
from lumenspark.data.hub import first_line
from lumenspark.data.tokenizer import load_tokenizer, to_transformers
from lumenspark.data.tokens import PreparedTokens
from lumenspark.errors import UserError
from lumenspark.evaluation.card import write_card
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.records import describe, store
from lumenspark.files import write_file, write_json
from lumenspark.inspect.contents import heads_content
from lumenspark.inspect.pages.render import render_heads_page
from lumenspark.inspect.recording import TEXT_TOKENS, Recorder, recorded_series
from lumenspark.loading import load, quiet_transformers
from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)
from lumenspark.training.checkpoint import checkpoint_step
from lumenspark.training.curves import draw_curves
from lumenspark.training.device import (
    attention_for,
    choose_compile,
    choose_device,
    choose_precision,
    prepare_process,
)
from lumenspark.training.environment import describe_environment
from lumenspark.training.loop import Trainer, make_loss
from lumenspark.training.progress import Reporter
from lumenspark.training.recipe import Recipe, load_recipe, parse_duration, with_overrides
from lumenspark.training.run import Run, get_run, new_run
from lumenspark.training.text import (
    open_recipe_corpus,
    prepare_recipe_tokens,
    with_full_names,
)
from lumenspark.training.tracking import tracker_module

LanguageModel = LumiereForCausalLM | LumensparkForCausalLM
MODELS: dict[str, tuple[type, type[LanguageModel]]] = {
    "lumiere": (LumiereConfig, LumiereForCausalLM),
    "lumenspark": (LumensparkConfig, LumensparkForCausalLM),
}
BUDGET_MARGIN = 0.97  # of the time that is left: steps are not all equally long


@dataclass
class Setup:
    """Everything that a training needs, made from a recipe in which nothing says auto."""

    recipe: Recipe
    corpus: Corpus
    tokens: PreparedTokens
    tokenizer: Any
    model: Any


@dataclass(frozen=True)
class Estimate:
    """What a recipe would take here. Times in seconds, memory in bytes."""

    parameters: int
    train_tokens: int
    vocab_size: int
    steps: int
    tokens_seen: int
    seconds_per_step: float
    seconds: float
    memory: int


def train(
    recipe: str | Recipe = "lumiere-1m",
    *,
    reporter: Reporter | None = None,
    started: float | None = None,
    **overrides: Any,
) -> Run:
    """Train a recipe, evaluate its best checkpoint, write curves and card. Returns the run.

    ``recipe`` is a preset's name, a path to a YAML file, or a :class:`Recipe`. ``overrides`` are
    its keys: ``data="…"``, ``budget="5m"``, ``train={"steps": 500}``; naming the steps drops a
    preset's budget. A budget counts from ``started`` (``time.monotonic()``; now unless given).

    Raises UserError for what cannot work, and :class:`~lumenspark.training.loop.Stopped` when
    asked to stop.
    """
    started = time.monotonic() if started is None else started
    reporter = reporter or Reporter()
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    setup = set_up(with_overrides(loaded, overrides), reporter)
    trainer = make_trainer(setup, reporter)
    fit_budget(trainer, started)
    run = new_run(trainer.recipe)
    environment = describe_environment(trainer.recipe, setup.corpus, setup.tokens, setup.model)
    write_json(run.path / "environment.json", environment)
    reporter.say(f"run {run.id}: {trainer.recipe.train.steps} steps, in {run.path}")
    trainer.train(run)
    finish(run, setup, reporter)
    return run


def resume(name: str, *, reporter: Reporter | None = None) -> Run:
    """Go on with a run from its newest good checkpoint, to the end that its recipe names."""
    reporter = reporter or Reporter()
    run = get_run(name)
    setup = set_up(run.recipe(), reporter)
    if setup.tokens.digest != run.environment().get("tokens_digest"):
        raise UserError(
            f"the text of run {run.id} has changed since it began: {setup.recipe.data} gives "
            "other tokens now, so train a new run"
        )
    make_trainer(setup, reporter).resume(run)
    finish(run, setup, reporter)
    return run


def estimate(recipe: Recipe, reporter: Reporter | None = None) -> Estimate:
    """Measure a few steps of ``recipe`` here, and undo them; no run is made."""
    started = time.monotonic()
    setup = set_up(recipe, reporter or Reporter())
    trainer = make_trainer(setup, reporter or Reporter())
    fit_budget(trainer, started)
    step, validation = trainer.seconds_per_step(warm=1, timed=3), trainer.seconds_per_validation()
    options = trainer.recipe.train
    return Estimate(
        parameters=sum(parameter.numel() for parameter in setup.model.parameters()),
        train_tokens=len(setup.tokens.splits["train"].ids),
        vocab_size=setup.tokens.vocab_size,
        steps=options.steps,
        tokens_seen=options.steps * trainer.recipe.tokens_per_step,
        seconds_per_step=step,
        seconds=options.steps * (step + validation / options.validate_every),
        memory=peak_memory(trainer.recipe.device),
    )


def quick_estimate(recipe: Recipe) -> tuple[int, float]:
    """Parameters, and seconds of training here: the budget, or by timing one forward and backward.

    No text is read: the windows are random, and the vocabulary as large as the recipe asks.
    """
    context = recipe.model.context
    no_tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = _model_of(recipe, vocab_size=recipe.tokenizer.vocab_size, **no_tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if recipe.budget:
        return parameters, parse_duration(recipe.budget)
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.train.precision, device)
    model.to(device).train().set_attn_implementation(attention_for(device, context))
    loss = make_loss(model, device, bf16=precision == "bf16")
    windows = torch.randint(
        recipe.tokenizer.vocab_size, (recipe.train.batch_size, context + 1), device=device
    )
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        loss(windows).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
    return parameters, seconds * recipe.train.accumulation * recipe.train.steps


def set_up(recipe: Recipe, reporter: Reporter) -> Setup:
    """Corpus, tokens, tokenizer and model. Raises UserError for text too short to train on."""
    quiet_transformers()
    recipe = _concrete(recipe)
    prepare_process(recipe.device, recipe.train.threads, cache_folder())
    if recipe.train.tracker != "none":
        tracker_module(recipe.train.tracker)
    corpus = open_recipe_corpus(recipe)
    recipe.corpus.revision = corpus.revision  # a run stays with the commit that it began with
    tokens = prepare_recipe_tokens(recipe, corpus, reporter.say)
    if recipe.init_from:
        tokenizer = load_tokenizer(recipe.init_from)
        model, recipe = _model_to_go_on_from(recipe)
    else:
        context = recipe.model.context
        if recipe.tokenizer.name:
            tokenizer = load_tokenizer(recipe.tokenizer.name)
        else:
            tokenizer = to_transformers(tokens.tokenizer, context)
        model = new_model(recipe, tokenizer, tokens.vocab_size)
    model.set_attn_implementation(attention_for(recipe.device, recipe.model.context))
    counts = {name: f"{len(split.ids):,}" for name, split in tokens.splits.items()}
    reporter.say(
        f"{recipe.name}: {sum(p.numel() for p in model.parameters()):,} parameters on "
        f"{recipe.device} ({recipe.train.precision}, {torch.get_num_threads()} threads); "
        f"{corpus.name}: "
        + ", ".join(f"{name} {count}" for name, count in counts.items())
        + " tokens"
    )
    return Setup(recipe, corpus, tokens, tokenizer, model.to(recipe.device))


def new_model(recipe: Recipe, tokenizer: Any, vocab_size: int) -> LanguageModel:
    """A model with fresh weights, determined by the recipe's seed, for ids below vocab_size."""
    torch.manual_seed(recipe.seed)
    return _model_of(
        recipe,
        vocab_size=max(len(tokenizer), vocab_size),  # a tokenizer may leave ids unused
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _model_of(recipe: Recipe, **tokens: int | None) -> LanguageModel:
    architecture = asdict(recipe.model)
    config_class, model_class = MODELS[architecture.pop("family")]
    try:
        return model_class(config_class(**architecture, **tokens))
    except ValueError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from error


def make_trainer(setup: Setup, reporter: Reporter) -> Trainer:
    """A trainer at step 0, compiled where that pays and works; its recipe says which."""
    recipe = setup.recipe
    asked = recipe.train.compile
    seconds = parse_duration(recipe.budget) if recipe.budget else None
    compiled, why = choose_compile(asked, recipe.device, seconds, recipe.train.steps)
    reporter.say(why)
    trainer = Trainer(recipe, setup.model, setup.tokenizer, setup.tokens, reporter)
    if compiled:
        try:
            trainer.compile()
        except Exception as error:  # a compiler can fail in any way; the run need not
            reason = first_line(error)
            if asked == "on":
                raise UserError(f"torch.compile failed: {reason}; use train.compile off") from error
            reporter.say(f"torch.compile failed, so the run goes on without it: {reason}")
            compiled = False
            trainer = Trainer(recipe, setup.model, setup.tokenizer, setup.tokens, reporter)
    recipe.train.compile = "on" if compiled else "off"
    if recipe.inspect.every:
        trainer.recorder = Recorder(setup.model, lens_text(setup))
    return trainer


def lens_text(setup: Setup) -> torch.Tensor:
    """Validation text (B, T) in windows of the context, for the lens to look at during training."""
    ids, context = setup.tokens.splits["validation"].ids, setup.recipe.model.context
    length = min(context, TEXT_TOKENS, len(ids))
    count = min(TEXT_TOKENS, len(ids)) // length
    return torch.from_numpy(ids[: count * length].astype(np.int64)).view(count, length)


def fit_budget(trainer: Trainer, started: float) -> None:
    """Set the number of steps that fit into the recipe's budget, counted from ``started``.

    Raises UserError where the set-up has used it up.
    """
    recipe = trainer.recipe
    if recipe.budget is None:
        return
    step = trainer.seconds_per_step()
    whole_step = step + trainer.seconds_per_validation() / recipe.train.validate_every
    whole_step += trainer.seconds_per_record() / max(1, recipe.inspect.every)
    used = time.monotonic() - started
    left = parse_duration(recipe.budget) - used
    steps = int(left * BUDGET_MARGIN / whole_step)
    if steps < 1:
        raise UserError(
            f"a budget of {recipe.budget} is over before the first step: set-up took {used:.0f} s "
            f"and a step takes {step:.2f} s"
        )
    recipe.train.steps = steps


def finish(run: Run, setup: Setup, reporter: Reporter) -> None:
    """Evaluate the best checkpoint, draw the curves, write the card, print a sample."""
    draw_curves(run)
    recipe = run.recipe()
    model, tokenizer = load(str(run.checkpoint("best")), device=recipe.device)
    split = "test" if "test" in setup.tokens.splits else "validation"
    for protocol in ("card", "strided"):
        context = recipe.model.context
        figures = evaluate(
            model, tokenizer, setup.corpus, split=split, protocol=protocol, context=context
        )
        step = checkpoint_step(run.checkpoint("best"))
        settings = f"--split {split} --protocol {protocol} --context {context}"
        command = f"lumenspark evaluate {run.id} {settings}"
        store(run.path, figures, checkpoint="best", step=step, command=command)
        reporter.say(describe(figures))
    write_card(run.path)
    inside = _write_inside_page(run, model)
    torch.manual_seed(recipe.seed)
    text = model.generate(
        text=recipe.train.prompt, tokenizer=tokenizer, max_new_tokens=64, temperature=0.8, top_k=50
    )
    reporter.say(f"\nA sample:\n{text}\n")
    reporter.say(
        "Next:\n"
        f'  lumenspark generate {run.id} "{recipe.train.prompt}"\n'
        f'  lumenspark inspect {run.id} "A sentence of yours" -o page.html\n'
        f"  lumenspark evaluate {run.id}\n"
        f"  lumenspark train {recipe.name} --data your-folder --budget 20m\n"
        f"The card is {run.path / 'README.md'}, the curves {run.path / 'loss.svg'}{inside}."
    )


def _write_inside_page(run: Run, model: LanguageModel) -> str:
    """The run's page, where training has looked inside; and what to say about it."""
    series = recorded_series(run.metrics())
    if not series:
        return ""
    title = f"run {run.id} ({run.recipe().name}), checkpoint best"
    write_file(run.path / "inspect.html", render_heads_page(heads_content(model, title, series)))
    return f", its inside over training {run.path / 'inspect.html'}"


def peak_memory(device: str) -> int:
    """Bytes: what the graphics card held at most, or this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _concrete(recipe: Recipe) -> Recipe:
    """A copy in which device, precision and paths are what they are here and now."""
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.train.precision, device)
    choices = {"device": device, "train.precision": precision}
    return with_overrides(with_full_names(recipe), choices)


def _model_to_go_on_from(recipe: Recipe) -> tuple[LanguageModel, Recipe]:
    """The weights that ``init_from`` names, and the recipe with their architecture in it."""
    model, _ = load(str(recipe.init_from))
    family = recipe.model.family
    if not isinstance(model, MODELS[family][1]):
        raise UserError(
            f"init_from must name a model of the recipe's family, {family}, and "
            f"{recipe.init_from} is a {type(model).__name__}"
        )
    model.config.dropout = recipe.model.dropout
    fields = set(asdict(recipe.model)) - {"family"}
    return model, with_overrides(recipe, {f"model.{f}": getattr(model.config, f) for f in fields})
