"""Resolution of a recipe: device, precision, paths and commits, and its corpus."""

from collections.abc import Callable
from dataclasses import replace

from lumenspark.data.corpora import Corpus, existing, open_corpus
from lumenspark.data.tokens import PreparedTokens, prepare
from lumenspark.hub import fetch, split_revision
from lumenspark.recipe import Recipe, with_overrides
from lumenspark.runs.run import model_source


def resolve(recipe: Recipe) -> Recipe:
    """A copy with the device, precision, paths and commits that ``auto`` and names stand for now.

    Decided later, once: the text and its commit, when it is opened (:func:`with_corpus`),
    whether to compile (:func:`lumenspark.training.setup.set_up`), and the steps of a budget
    (:func:`lumenspark.training.budget.fit_budget`).
    """
    from lumenspark.device import choose_device, choose_precision  # loads torch

    device = choose_device(recipe.device)
    precision = choose_precision(recipe.train.precision, device)
    return with_full_names(recipe, {"device": device, "train.precision": precision})


def with_full_names(recipe: Recipe, changes: dict[str, str] | None = None) -> Recipe:
    """A copy with absolute paths, with the commits of models of the hub, and with ``changes``.

    So a run can be resumed from another folder, and keeps the commits that it began with. A run's
    id becomes the folder of its checkpoint, a model of the hub ``org/model@commit``.
    """
    tokenizer, init_from = recipe.tokenizer.name, recipe.init_from
    names = {
        "data": _absolute(recipe.data),
        "init_from": init_from and _full_name(init_from, weights=True),
        "tokenizer.name": tokenizer and _full_name(tokenizer, weights=False),
    }
    return with_overrides(recipe, names | (changes or {}))


def _full_name(model: str, weights: bool) -> str:
    source = model_source(model)
    if existing(source) is not None:
        return _absolute(source)
    hub_id, revision = split_revision(source)
    return f"{hub_id}@{fetch(hub_id, revision, weights=weights).revision}"


def _absolute(name: str) -> str:
    path = existing(name)
    return name if path is None else str(path.resolve())


def with_corpus(recipe: Recipe, corpus: Corpus) -> Recipe:
    """A copy that names ``corpus`` and its commit, which a resumed run reads again."""
    options = replace(recipe.corpus, revision=corpus.revision)
    return replace(recipe, data=corpus.name, corpus=options)


def open_recipe_corpus(recipe: Recipe, report: Callable[[str], None]) -> Corpus:
    """The text that a recipe names, read as it says. ``report`` receives which one ``auto`` is."""
    options = recipe.corpus
    corpus = open_corpus(
        recipe.data,
        layout=options.layout,
        revision=options.revision,
        config=options.config,
        text_field=options.text_field,
        streaming=options.streaming,
    )
    if corpus.note is not None:
        report(corpus.note)
    return corpus


def prepare_recipe_tokens(
    recipe: Recipe,
    corpus: Corpus,
    report: Callable[[str], None],
    check_every_byte: bool = False,
) -> PreparedTokens:
    """The token ids of a recipe's text: from the cache, or tokenized now.

    Raises UserError for text without a train or a validation split, which training needs both.
    """
    return prepare(
        corpus,
        vocab_size=recipe.tokenizer.vocab_size,
        tokenizer_name=recipe.init_from or recipe.tokenizer.name,
        headings=recipe.corpus.headings,
        needed=("train", "validation"),
        check_every_byte=check_every_byte,
        report=report,
    )
