"""lumenspark prepare: tokenize a corpus ahead of training."""

from lumenspark.cli.parsing import parse_recipe


def main(arguments: list[str]) -> None:
    description = "Tokenize the corpus of a recipe into the token cache that train reads."
    recipe = parse_recipe("prepare", description, arguments)
    from lumenspark.resolve import open_recipe_corpus, prepare_recipe_tokens, with_full_names

    recipe = with_full_names(recipe)
    corpus = open_recipe_corpus(recipe, print)
    tokens = prepare_recipe_tokens(recipe, corpus, print, check_every_byte=True)
    print(f"vocabulary of {tokens.vocab_size:,}; token cache: {tokens.folder}")
