"""Which split a file belongs to, by its name and the names of its folders.

One rule. A word for a split (``train``, ``validation``, ``test`` and their short forms, in any
case) names the split of a file or folder

- where it is the whole name or stands at its end, numbers and words such as ``set``, ``data`` or
  ``part`` aside: ``train.txt``, ``TinyStories-valid.txt``, ``test-00000-of-00002.parquet``,
  ``dataset_train.jsonl``, ``Train (1).txt``, a folder ``val_split``;
- anywhere, where something beside it has the same name with another such word:
  ``train_en.jsonl`` and ``test_en.jsonl``, ``wikitrain.txt`` and ``wikitest.txt``.

What may be meant as a split or not is refused, since a guess could train on text that was held
out: a word for a split elsewhere in a name (``train-journeys.txt``), two of them
(``train-test.txt``), and words for text that was held out which do not say whether for validation
or for the test (``eval``, ``holdout``). A folder's name settles what a file's name leaves open; two
that name different splits are refused.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

SPLITS = ("train", "validation", "test")
EITHER = "validation or test"  # held out, but for what is not said

_WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "development": "validation",
    "devel": "validation",
    "dev": "validation",
    "testing": "test",
    "test": "test",
    "tst": "test",
    "evaluation": EITHER,
    "eval": EITHER,
    "heldout": EITHER,
    "holdout": EITHER,
}
_LONGEST_FIRST = "|".join(sorted(_WORDS, key=len, reverse=True))
_SPLIT_WORD = re.compile(_LONGEST_FIRST)
_SPLIT_WORDS = re.compile(rf"(?:{_LONGEST_FIRST})+")
_GLUED = re.compile(rf"((?:{_LONGEST_FIRST})+)(?:set|split|data|text|file|part)?")
_SMALL = re.compile(  # words after a split's that say nothing else
    "of|parts?|shards?|chunks?|splits?|set|data|dataset|files?|texts?|raw|token(?:s|ized)?|copy|full|"
    "all|clean(?:ed)?|filtered|dedup|final|small|large|tiny|mini|corpus|documents|docs|lines|"
    "sentences|shuffled|sample|new|source|v|[kmgt]|[kmgt]?b"
)
_HELD_OUT = re.compile(r"(held|hold)[\W_]+out(?![a-z])")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W\d_]+")
_NO_LETTERS = re.compile(r"[\W\d_]+")


def split_by_name(name: str) -> str | None:
    """The split that ``name`` (without its ending) says by itself.

    Returns:
        one of ``SPLITS``; ``EITHER``; None where no word of it is one for a split; and an empty
        string where it may name a split or not.
    """
    words = _WORD.findall(_HELD_OUT.sub(r"\1out", _CAMEL.sub(" ", name).lower()))
    places = {place: found for place, word in enumerate(words) if (found := _splits_in(word))}
    splits = {split for found in places.values() for split in found}
    if not splits:
        return None
    ends = all(map(_SMALL.fullmatch, words[max(places) + 1 :]))
    return _only(splits) if ends else ""


def _splits_in(word: str) -> set[str]:
    """The splits that a word names: none for ``devotion``, two for ``trainval``."""
    match = _GLUED.fullmatch(word)
    return {_WORDS[part] for part in _SPLIT_WORD.findall(match[1])} if match else set()


def splits_of_names(names: Iterable[str]) -> dict[str, str | None]:
    """What :func:`split_by_name` says of names that lie side by side, and what they say together.

    Names that are the same but for a word for a split, numbers and small words aside, name their
    splits.
    """
    said = {name: split_by_name(name) for name in names}
    together = _splits_of_alike(said)
    return {
        name: split or (_only(together[name]) if name in together else split)
        for name, split in said.items()
    }


def _splits_of_alike(names: Iterable[str]) -> dict[str, set[str]]:
    """The splits of those names that differ from another one by a split alone."""
    alike: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        for rest, split in _without_split(name):
            alike[rest][split].append(name)
    together: dict[str, set[str]] = defaultdict(set)
    for splits in alike.values():
        for split, members in splits.items() if len(splits) > 1 else ():
            for name in members:
                together[name].add(split)
    return together


def _without_split(name: str) -> Iterator[tuple[str, str]]:
    """For each place in ``name`` with a word for a split: the rest of it, and the split."""
    text = _NO_LETTERS.sub(" ", _HELD_OUT.sub(r"\1out", name.lower()))
    for match in _SPLIT_WORDS.finditer(text):
        after = [word for word in text[match.end() :].split() if not _SMALL.fullmatch(word)]
        yield f"{text[: match.start()]}\0{' '.join(after)}", _only(_splits_in(match[0]))


def _only(splits: set[str]) -> str:
    """The one split; an empty string where there are several."""
    return next(iter(splits)) if len(splits) == 1 else ""


class UnclearNamesError(Exception):
    """Names that may mean a split or not, or two; ``paths`` are the files that bear them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(f"{len(paths)} unclear names")
        self.paths = paths


def splits_of_files(stems: Mapping[Path, str]) -> dict[Path, str | None]:
    """The split of each file, None where its path names none.

    Args:
        stems: relative paths, each with the file's name without its endings.

    Raises:
        UnclearNamesError: where a guess could take one split for another.
    """
    said = _said_by_parts(stems)
    found: dict[Path, str | None] = {}
    unclear = []
    for path, stem in stems.items():
        parts = [(folder.parent, folder.name) for folder in path.parents if folder.name]
        readings = {said[part] for part in (*parts, (path.parent, stem))} - {None}
        clear = readings - {""}
        if len(clear) > 1 or EITHER in clear or readings == {""}:
            unclear.append(path)
        found[path] = next(iter(clear), None)
    if unclear:
        raise UnclearNamesError(unclear)
    return found


def _said_by_parts(stems: Mapping[Path, str]) -> dict[tuple[Path, str], str | None]:
    """What each name says beside the others of its folder: {(folder, name): split}."""
    beside: dict[Path, set[str]] = defaultdict(set)
    for path, stem in stems.items():
        beside[path.parent].add(stem)
        for folder in path.parents:
            if folder.name:
                beside[folder.parent].add(folder.name)
    return {
        (parent, name): split
        for parent, names in beside.items()
        for name, split in splits_of_names(names).items()
    }
