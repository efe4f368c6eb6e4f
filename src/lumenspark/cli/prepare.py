"""lumenspark prepare: tokenize a corpus ahead of training."""

from lumenspark.cli.parsing import parse_recipe


def main(arguments: list[str]) -> None:
    description = "Tokenize the corpus of a recipe into the token cache that train reads."
    recipe = parse_recipe("prepare", description, arguments)
    from lumenspark.api import prepare

    tokens = prepare(recipe)
    print(f"vocabulary of {tokens.vocab_size:,}; token cache: {tokens.folder}")
