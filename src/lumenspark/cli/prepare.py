"""lumenspark prepare: tokenize a corpus ahead of training, and write the facts of made stories."""

from pathlib import Path

from lumenspark.cli.parsing import parse_recipe
from lumenspark.errors import UserError
from lumenspark.recipe import recipe_names

ABOUT = """Tokenize the corpus of a recipe into the token cache that train reads.

A corpus can stand in place of the recipe: lumenspark prepare tales.
--facts             write the text of tales, and what is known about each
                    sentence, into the folder tales-facts: who a pronoun means,
                    who is where and holds what, which word determines which"""


def main(arguments: list[str]) -> None:
    facts = "--facts" in arguments
    arguments = [argument for argument in arguments if argument != "--facts"]
    recipe = parse_recipe("prepare", ABOUT, _with_data(arguments))
    from lumenspark.data.tales.corpus import Tales
    from lumenspark.resolve import open_recipe_corpus, prepare_recipe_tokens, with_full_names

    recipe = with_full_names(recipe)
    corpus = open_recipe_corpus(recipe, print)
    tales = corpus if isinstance(corpus, Tales) else None
    if facts and tales is None:
        raise UserError(f"--facts is for tales, not for {corpus.name}: name tales as the data")
    folder = Path(f"{corpus.name}-facts")
    if facts and folder.exists():
        raise UserError(f"{folder} exists already: move it away, or work in another folder")
    tokens = prepare_recipe_tokens(recipe, corpus, print, check_every_byte=True)
    print(f"vocabulary of {tokens.vocab_size:,}; token cache: {tokens.folder}")
    if tales is None:
        return
    print(f"entropy: {tales.entropy('test'):.4f} bits per byte, which no model can beat")
    if facts:
        tales.write_facts(folder)
        print(f"text and facts: {folder.resolve()}")


def _with_data(arguments: list[str]) -> list[str]:
    """``tales …`` as ``--data tales …``: the first word may name a corpus instead of a recipe."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in recipe_names():
        return arguments
    from lumenspark.data.corpora import is_built_in

    name, *others = arguments
    return ["--data", name, *others] if is_built_in(name) or Path(name).is_dir() else arguments
