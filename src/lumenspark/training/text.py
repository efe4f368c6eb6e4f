"""The text and the token ids that a recipe names. No torch: preparing needs little memory."""

from collections.abc import Callable

from lumenspark.data.corpora import Corpus, open_corpus
from lumenspark.data.tokens import PreparedTokens, prepare

from .recipe import Recipe


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
    recipe: Recipe, corpus: Corpus, report: Callable[[str], None]
) -> PreparedTokens:
    """The token ids of a recipe's text: from the cache, or made now."""
    return prepare(
        corpus,
        vocab_size=recipe.tokenizer.vocab_size,
        tokenizer_name=recipe.init_from or recipe.tokenizer.name,
        headings=recipe.corpus.headings,
        report=report,
    )
