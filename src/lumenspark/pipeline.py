"""From a recipe to a trained, evaluated model with its card: what `lumenspark train` does."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lumenspark.data.cache_folder import cache_folder
from lumenspark.data.corpora import Corpus
from lumenspark.data.tokenizer import SMALLEST, load_tokenizer, to_transformers
from lumenspark.data.tokens import PreparedTokens
from lumenspark.device import (
    attention_for,
    choose_compile,
    choose_device,
    choose_precision,
    prepare_process,
)
from lumenspark.errors import UserError, first_line
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import describe, read_evaluations, store
from lumenspark.evaluation.weights import load_to_score
from lumenspark.files import set_aside, write_file
from lumenspark.inspect.pages.build import heads_content
from lumenspark.inspect.pages.render import render_heads_page
from lumenspark.inspect.recording import TEXT_TOKENS, Recorder, recorded_series
from lumenspark.loading import load
from lumenspark.memory import check_memory, on_meta, training_bytes
from lumenspark.model_card.card import write_card
from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)
from lumenspark.quiet import quiet_transformers
from lumenspark.recipe import (
    Recipe,
    load_recipe,
    parse_duration,
    recipe_names,
    with_overrides,
)
from lumenspark.reporter import Reporter
from lumenspark.runs.environment import describe_environment, mend_environment
from lumenspark.runs.run import Run, get_run, new_run, tidy_runs
from lumenspark.training.plots import draw_curves
from lumenspark.training.scaling import check_starts_afresh, scaled
from lumenspark.training.teachers import seconds_to_ask, train_teachers
from lumenspark.training.text import (
    open_recipe_corpus,
    prepare_recipe_tokens,
    with_full_names,
)
from lumenspark.training.trackers import tracker_module
from lumenspark.training.trainer import Trainer, sample_text

LanguageModel = LumiereForCausalLM | LumensparkForCausalLM
MODELS: dict[str, tuple[type, type[LanguageModel]]] = {
    "lumiere": (LumiereConfig, LumiereForCausalLM),
    "lumenspark": (LumensparkConfig, LumensparkForCausalLM),
}
MADE_AT_THE_END = ("evaluation.json", "loss.svg", "README.md", "inspect.html")
NO_TOKENS: dict[str, int | None] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
BUDGET_MARGIN = 0.97  # of the time that is left: steps are not all equally long


@dataclass
class Setup:
    """Everything that a training needs, made from a recipe in which nothing says auto."""

    recipe: Recipe
    corpus: Corpus
    tokens: PreparedTokens
    tokenizer: Any
    model: Any


def train(
    recipe: str | Recipe = "lumiere-1m",
    *,
    size: str | None = None,
    reporter: Reporter | None = None,
    started: float | None = None,
    **overrides: Any,
) -> Run:
    """Train a recipe, evaluate its best checkpoint, write curves and card. Returns the run.

    ``recipe`` is a preset's name, a path to a YAML file, or a :class:`Recipe`. A ``size`` such as
    ``"3m"`` scales it (:func:`~lumenspark.training.scaling.scaled`). ``overrides`` are its keys:
    ``data="…"``, ``budget="5m"``, ``train={"steps": 500}``; naming the steps drops a preset's
    budget. A budget counts from ``started`` (``time.monotonic()``; now unless given).

    Raises UserError for what cannot work, and :class:`~lumenspark.training.trainer.Stopped` when
    asked to stop.
    """
    started = time.monotonic() if started is None else started
    reporter = reporter or Reporter()
    tidy_runs()
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if size is None:
        wanted = with_overrides(loaded, overrides)
    else:
        wanted = with_overrides(scaled(loaded, size), overrides)
        check_starts_afresh(wanted)
    setup = set_up(wanted, reporter)
    trainer = make_trainer(setup, reporter)
    fit_budget(trainer, started)
    environment = describe_environment(trainer.recipe, setup.corpus, setup.tokens, setup.model)
    run = new_run(trainer.recipe, environment)
    reporter.say(f"run {run.id}, in {run.path}")
    with resumable(f"lumenspark resume {run.id}"):
        train_in(run, trainer, setup, budget_from=started)
        finish(run, setup, reporter)
    return run


def resume(name: str, *, reporter: Reporter | None = None) -> Run:
    """Go on with a run from its newest good checkpoint, to the end that its recipe names.

    A run that was stopped before it had one begins at step 0. Files that are no part of a
    checkpoint only describe the run: one that is damaged is put aside, and made again.
    """
    reporter = reporter or Reporter()
    run = get_run(name)
    recipe = run.recipe()
    _check_goes_on(run)
    tidy_runs()
    setup = set_up(recipe, reporter)
    with resumable(f"lumenspark resume {run.id}"):
        for problem in mend_files(run, setup):
            reporter.say(problem)
        _check_text(run, setup)
        train_in(run, make_trainer(setup, reporter), setup)
        finish(run, setup, reporter)
    return run


def _check_goes_on(run: Run) -> None:
    """Raise UserError for a folder with a recipe that is no run, or has lost what it learned."""
    begun = run.checkpoints.is_dir() and (run.has_checkpoints() or not any(run.metrics()))
    if not begun:
        raise UserError(
            f"{run.path} holds no checkpoint to resume from: train a new run, with "
            f"`lumenspark train {run.path / 'recipe.yaml'}`"
        )


def _check_text(run: Run, setup: Setup) -> None:
    """Raise UserError where the text gives other ids than those that the run began with.

    Their numbers are compared too: earlier versions read some files (with a byte-order mark, with
    Windows' line ends, with splits in unusual names) in another way, under the same digest.
    """
    environment = run.environment()
    counts = {name: len(split.ids) for name, split in setup.tokens.splits.items()}
    same = environment["tokens_digest"] == setup.tokens.digest
    if not same or environment["corpus"]["tokens"] != counts:
        raise UserError(
            f"the text of run {run.id} has changed since it began: {setup.recipe.data} gives "
            "other tokens now, so put it back as it was, or train a new run"
        )


def mend_files(run: Run, setup: Setup, name: str | None = None) -> Iterator[str]:
    """Put damaged files of a run aside, before they could end its training, and say so.

    ``name``: what ``environment.json`` calls the run, where that is not its id.
    """
    here = describe_environment(setup.recipe, setup.corpus, setup.tokens, setup.model)
    problem = mend_environment(run, {"run": name or run.id} | here)
    if problem is not None:
        yield problem
    if (problem := run.metrics_problem()) is not None:
        yield f"{problem}: passed over"
    for file in (run.path / made for made in MADE_AT_THE_END):
        if os.path.lexists(file) and not file.is_file():
            yield f"{file} is no file: kept as {set_aside(file).name}"
    try:
        read_evaluations(run.path)
    except UserError as error:
        yield f"{error} (kept as {set_aside(run.path / 'evaluation.json').name})"


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """Inside, a disk that refuses (full, read-only) becomes a sentence on how to go on."""
    try:
        yield
    except OSError as error:
        name, reason = error.filename or "the disk", error.strerror or first_line(error)
        raise UserError(
            f"{name}: {reason}; nothing that was saved is lost: make room there, or make it "
            f"writable, and go on with `{command}`"
        ) from error


def train_in(run: Run, trainer: Trainer, setup: Setup, budget_from: float | None = None) -> Trainer:
    """Train to the last step from wherever ``run`` is, the teachers first. Returns who trained.

    ``budget_from``: where teachers have been trained, a budget that began then is fitted again to
    the time that they have left.
    """
    if trainer.recipe.distill.teachers:
        trainer = taught(trainer, setup, run)
        if budget_from is not None:
            fit_budget(trainer, budget_from)
            run.write_recipe(trainer.recipe)
    trainer.reporter.say(f"{trainer.recipe.train.steps} steps")
    if run.has_checkpoints():
        trainer.resume(run)
    else:  # it is new, or was stopped while its teachers were trained
        trainer.train(run)
    return trainer


def taught(trainer: Trainer, setup: Setup, run: Run) -> Trainer:
    """The trainer of a model whose teachers are trained, each with the weights of its own seed.

    All of them are one module after the other, so that nothing is compiled twice.
    """
    first_weights = deepcopy(setup.model.state_dict())

    def trainer_for(recipe: Recipe, weights: dict[str, torch.Tensor]) -> Trainer:
        setup.model.load_state_dict(weights)
        return Trainer(
            recipe, setup.model, setup.tokenizer, setup.tokens, trainer.reporter, trainer.loss
        )

    def new_teacher(recipe: Recipe) -> Trainer:
        fresh = new_model(recipe, setup.tokenizer, setup.tokens.vocab_size)
        return trainer_for(recipe, fresh.state_dict())

    answers = train_teachers(trainer.recipe, run, new_teacher)
    student = trainer_for(trainer.recipe, first_weights)
    student.answers, student.recorder = answers, trainer.recorder
    return student


def set_up(recipe: Recipe, reporter: Reporter) -> Setup:
    """Corpus, tokens, tokenizer and model. Raises UserError for text too short to train on."""
    quiet_transformers()
    recipe = _concrete(recipe)
    prepare_process(recipe.device, recipe.train.threads, cache_folder())
    if recipe.train.tracker != "none":
        tracker_module(recipe.train.tracker)
    if not recipe.init_from:  # before any text is read: with the smallest vocabulary
        check_training_fits(recipe, SMALLEST)
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
    reporter.say(
        f"{recipe.name}: {sum(p.numel() for p in model.parameters()):,} parameters on "
        f"{recipe.device} ({recipe.train.precision}, {torch.get_num_threads()} threads)"
    )
    return Setup(recipe, corpus, tokens, tokenizer, model.to(recipe.device))


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
    """A model of the recipe's shape. Raises UserError where memory is too small to train it."""
    check_training_fits(recipe, tokens["vocab_size"] or 0)
    return _built(recipe, tokens)


def check_training_fits(recipe: Recipe, vocab_size: int) -> None:
    """Raises UserError where training the recipe needs more memory than there is.

    Nothing is built but a block or two, without content.
    """
    tokens = NO_TOKENS | {"vocab_size": vocab_size}
    try:
        one = on_meta(lambda: _built(recipe, tokens, layers=1))
        two = on_meta(lambda: _built(recipe, tokens, layers=2))
    except RuntimeError as error:  # more numbers in a tensor than torch can count
        raise UserError(
            f"the recipe {recipe.name} makes a model that is too large to be counted "
            f"({first_line(error)}): take smaller numbers"
        ) from error
    needed = training_bytes(recipe, one, two)
    fix = "take a smaller model, a shorter context or a smaller batch with more accumulation"
    check_memory(needed, f"the recipe {recipe.name}", choose_device(recipe.device), fix)


def _built(recipe: Recipe, tokens: dict[str, int | None], layers: int | None = None) -> Any:
    architecture = asdict(recipe.model)
    config_class, model_class = MODELS[architecture.pop("family")]
    try:
        config = config_class(**architecture, **tokens)
        if layers is not None:
            config.num_hidden_layers = layers
        return model_class(config)
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

    Where teachers are still to be trained they get their share of it, after what asking them will
    take. Raises UserError where nothing is left for training.
    """
    recipe = trainer.recipe
    if recipe.budget is None:
        return
    step = trainer.seconds_per_step()
    whole_step = step + trainer.seconds_per_validation() / recipe.train.validate_every
    whole_step += trainer.seconds_per_record() / max(1, recipe.inspect.every)
    distill, used = recipe.distill, time.monotonic() - started
    untaught = distill.teachers > 0 and trainer.answers is None
    asking = distill.teachers * seconds_to_ask(trainer) if untaught else 0.0
    left = parse_duration(recipe.budget) - used - asking
    steps = int(left * BUDGET_MARGIN / whole_step)
    if steps < 1 and trainer.answers is None:  # who has waited for teachers gets a model
        asked = f", asking the teachers takes {asking:.0f} s" if untaught else ""
        raise UserError(
            f"a budget of {recipe.budget} is over before the first step: set-up took {used:.0f} s"
            f"{asked} and a step takes {step:.2f} s"
        )
    if untaught:
        distill.steps = max(1, int(steps * distill.budget_fraction / distill.teachers))
        steps -= distill.teachers * distill.steps
    recipe.train.steps = max(1, steps)


def finish(run: Run, setup: Setup, reporter: Reporter) -> None:
    """Evaluate the best checkpoint, draw the curves, write the card, print a sample."""
    draw_curves(run)
    recipe = run.recipe()
    best = str(run.checkpoint("best"))
    model, tokenizer, weights = load_to_score(best, device=setup.recipe.device)
    split = "test" if "test" in setup.tokens.splits else "validation"
    for protocol in ("card", "strided"):
        context = recipe.model.context
        try:
            figures = evaluate(
                model, tokenizer, setup.corpus, split=split, protocol=protocol, context=context
            )
        except UserError as error:  # such as a tokenizer that loses the text; the run has its end
            reporter.say(f"no figures by the protocol {protocol}: {error}")
            continue
        settings = f"--split {split} --protocol {protocol} --context {context}"
        store(
            run.path,
            figures,
            checkpoint="best",
            step=weights.step,
            weights=weights.digest,
            command=f"lumenspark evaluate {run.id} {settings}",
        )
        reporter.say(describe(figures))
    write_card(run.path)
    inside = _write_inside_page(run, model)
    text = sample_text(model, tokenizer, recipe.train.prompt, recipe.seed, 64)
    reporter.say(f"\nA sample:\n{text}\n")
    preset = recipe.name if recipe.name in recipe_names() else "lumiere-1m"
    reporter.say(
        "Next:\n"
        f'  lumenspark generate {run.id} "{recipe.train.prompt}"\n'
        f'  lumenspark inspect {run.id} "A sentence of yours" -o page.html\n'
        f"  lumenspark evaluate {run.id}\n"
        f"  lumenspark train {preset} --data your-folder --budget 20m\n"
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
    check_memory(
        training_bytes(recipe, model),
        f"going on from {recipe.init_from}",
        choose_device(recipe.device),
        "take a smaller batch with more accumulation",
    )
    fields = set(asdict(recipe.model)) - {"family"}
    return model, with_overrides(recipe, {f"model.{f}": getattr(model.config, f) for f in fields})
