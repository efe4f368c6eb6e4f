"""lumenspark prepare: text to token ids, ahead of time."""

from lumenspark.cli.parsing import parse_recipe


def main(arguments: list[str]) -> None:
    description = "Turn a recipe's text into token ids, where train will find them."
    recipe = parse_recipe("prepare", description, arguments)
    from lumenspark.resolve import open_recipe_corpus, prepare_recipe_tokens, with_full_names

    recipe = with_full_names(recipe)
    corpus = open_recipe_corpus(recipe)
    tokens = prepare_recipe_tokens(recipe, corpus, print, check_every_byte=True)
    print(f"{tokens.vocab_size:,} entries in the vocabulary; kept in {tokens.folder}")
