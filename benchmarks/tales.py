"""The corpus `tales` in figures: speed, variety, entropy, and how much of test stands in train.

    python benchmarks/tales.py
    python benchmarks/tales.py --megabytes 5

A 13-gram is thirteen words in a row (`text.split()`); those of the test split are looked up in the
train split. Events and vocabulary are counted over the test split.
"""

import re
import time
from dataclasses import dataclass

import tyro

from lumenspark.data.tales.corpus import SEED, Tales
from lumenspark.data.tales.story import write_story

NGRAM = 13


@dataclass
class Options:
    """The corpus tales in figures."""

    megabytes: int = 20
    """Size of the train split."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    corpus = Tales(f"tales-{options.megabytes}mb")
    started = time.perf_counter()
    train = corpus.text("train")
    seconds = time.perf_counter() - started
    test = corpus.text("test")
    stories = [
        write_story(SEED, "test", number, facts=True)
        for number in range(sum(1 for _ in corpus.documents("test")))
    ]
    words = set(re.findall(r"\b[a-z]+\b", test))
    rows = (
        ("train split", f"{len(train.encode()):,} bytes, written in {seconds:.1f} s (one process)"),
        ("test split", f"{len(test.encode()):,} bytes, {len(stories):,} stories"),
        ("plots", len({story.plot for story in stories})),
        ("kinds of event", len({unit.event for story in stories for unit in story.units})),
        ("words in lower case", f"{len(words):,}"),
        ("entropy", f"{corpus.entropy('test'):.4f} bits per byte"),
        (f"{NGRAM}-grams of test in train", f"{share_of_ngrams(test, train):.1%}"),
    )
    for name, value in rows:
        print(f"{name:<24}{value}")


def share_of_ngrams(test: str, train: str) -> float:
    """The share of the n-grams of ``test`` that are in ``train`` too."""
    known = set(ngrams(train))
    found = [ngram in known for ngram in ngrams(test)]
    return sum(found) / len(found)


def ngrams(text: str) -> list[int]:
    """A hash for each n-gram, the same within a process."""
    words = text.split()
    return [hash(tuple(words[i : i + NGRAM])) for i in range(len(words) - NGRAM + 1)]


if __name__ == "__main__":
    main()
