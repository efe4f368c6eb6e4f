"""The text and the token ids that a recipe names. No torch: preparing needs little memory."""

from collections.abc import Callable

from lumenspark.data.corpora import Corpus, existing, open_corpus
from lumenspark.data.tokens import PreparedTokens, prepare
from lumenspark.hub import fetch, split_revision
from lumenspark.recipe import Recipe, with_overrides
from lumenspark.runs.run import model_source


def with_full_names(recipe: Recipe) -> Recipe:
    """A copy in which a run's id is its checkpoint's folder, and every path is absolute.

    So a run can be resumed from another folder. Models of the hub get the commit that they are of
    now (``org/model@commit``), with which the run stays.
    """
    names = {
        "data": _absolute(recipe.data),
        "init_from": recipe.init_from and _full_name(recipe.init_from, weights=True),
        "tokenizer.name": recipe.tokenizer.name
        and _full_name(recipe.tokenizer.name, weights=False),
    }
    return with_overrides(recipe, names)


def _full_name(model: str, weights: bool) -> str:
    source = model_source(model)
    if existing(source) is not None:
        return _absolute(source)
    hub_id, revision = split_revision(source)
    return f"{hub_id}@{fetch(hub_id, revision, weights=weights).revision}"


def _absolute(name: str) -> str:
    path = existing(name)
    return name if path is None else str(path.resolve())


def open_recipe_corpus(recipe: Recipe) -> Corpus:
    """The text that a recipe names, read as it says."""
    options = recipe.corpus
    return open_corpus(
        recipe.data,
        layout=options.layout,
        revision=options.revision,
        config=options.config,
        text_field=options.text_field,
        streaming=options.streaming,
    )


def prepare_recipe_tokens(
    recipe: Recipe,
    corpus: Corpus,
    report: Callable[[str], None],
    check_every_byte: bool = False,
) -> PreparedTokens:
    """The token ids of a recipe's text: from the cache, or made now.

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
