"""lumenspark prepare: text to token ids, ahead of time."""

from .parsing import parse_recipe


def main(arguments: list[str]) -> None:
    description = "Turn a recipe's text into token ids, where train will find them."
    recipe = parse_recipe("prepare", description, arguments)
    from lumenspark.training.text import open_recipe_corpus, prepare_recipe_tokens, with_full_names

    recipe = with_full_names(recipe)
    tokens = prepare_recipe_tokens(recipe, open_recipe_corpus(recipe), print)
    for name, split in tokens.splits.items():
        print(
            f"{name:<10} {len(split.ids):>12,} tokens  {len(split.offsets) - 1:>9,} documents  "
            f"{split.byte_count:>13,} bytes"
        )
    print(f"{tokens.vocab_size:,} entries in the vocabulary; kept in {tokens.folder}")
