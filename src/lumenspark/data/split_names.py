"""The split of a file, from its name and the names of its folders.

A split word (``train``, ``validation``, ``test`` and short forms, in any case) names the split of
a file or folder

- if it is the whole name or its last word, apart from numbers and words such as ``set``, ``data``
  or ``part``: ``train.txt``, ``TinyStories-valid.txt``, ``test-00000-of-00002.parquet``,
  ``dataset_train.jsonl``, ``Train (1).txt``, a folder ``val_split``;
- anywhere in the name, if a sibling has the same name with another split word:
  ``train_en.jsonl`` and ``test_en.jsonl``, ``wikitrain.txt`` and ``wikitest.txt``.

Ambiguous names are refused, since a wrong guess could train on held-out text: a split word
elsewhere in the name (``train-journeys.txt``), two of them (``train-test.txt``), and words for
either validation or test (``eval``, ``holdout``). A folder's name resolves an ambiguous file name;
contradictory names are refused.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

SPLITS = ("train", "validation", "test")
EITHER = "validation or test"  # held out, purpose unknown

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
_SMALL = re.compile(  # words without meaning after a split word
    "of|parts?|shards?|chunks?|splits?|set|data|dataset|files?|texts?|raw|token(?:s|ized)?|copy|full|"
    "all|clean(?:ed)?|filtered|dedup|final|small|large|tiny|mini|corpus|documents|docs|lines|"
    "sentences|shuffled|sample|new|source|v|[kmgt]|[kmgt]?b"
)
_HELD_OUT = re.compile(r"(held|hold)[\W_]+out(?![a-z])")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W\d_]+")
_NO_LETTERS = re.compile(r"[\W\d_]+")


def split_by_name(name: str) -> str | None:
    """The split named by ``name`` (without extension) alone.

    Returns:
        one of ``SPLITS``; ``EITHER``; None without a split word; an empty string if ambiguous.
    """
    words = _WORD.findall(_HELD_OUT.sub(r"\1out", _CAMEL.sub(" ", name).lower()))
    places = {place: found for place, word in enumerate(words) if (found := _splits_in(word))}
    splits = {split for found in places.values() for split in found}
    if not splits:
        return None
    ends = all(map(_SMALL.fullmatch, words[max(places) + 1 :]))
    return _only(splits) if ends else ""


def _splits_in(word: str) -> set[str]:
    """The splits named by a word: none for ``devotion``, two for ``trainval``."""
    match = _GLUED.fullmatch(word)
    return {_WORDS[part] for part in _SPLIT_WORD.findall(match[1])} if match else set()


def splits_of_names(names: Iterable[str]) -> dict[str, str | None]:
    """The splits of sibling names: by :func:`split_by_name`, and by comparison.

    Names that differ only by a split word (numbers and filler words aside) name their splits.
    """
    said = {name: split_by_name(name) for name in names}
    together = _splits_of_alike(said)
    return {
        name: split or (_only(together[name]) if name in together else split)
        for name, split in said.items()
    }


def _splits_of_alike(names: Iterable[str]) -> dict[str, set[str]]:
    """The splits of names that differ from a sibling by the split word alone."""
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
    """For each split word in ``name``: the rest of the name, and the split."""
    text = _NO_LETTERS.sub(" ", _HELD_OUT.sub(r"\1out", name.lower()))
    for match in _SPLIT_WORDS.finditer(text):
        after = [word for word in text[match.end() :].split() if not _SMALL.fullmatch(word)]
        yield f"{text[: match.start()]}\0{' '.join(after)}", _only(_splits_in(match[0]))


def _only(splits: set[str]) -> str:
    """The only split; an empty string for several."""
    return next(iter(splits)) if len(splits) == 1 else ""


class UnclearNamesError(Exception):
    """Ambiguous split names of the files ``paths``."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(f"{len(paths)} unclear names")
        self.paths = paths


def splits_of_files(stems: Mapping[Path, str]) -> dict[Path, str | None]:
    """The split of each file, None if its path names none.

    Args:
        stems: relative paths, each with the file name without extensions.

    Raises:
        UnclearNamesError: for ambiguous names.
    """
    said = _splits_of_parts(stems)
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


def _splits_of_parts(stems: Mapping[Path, str]) -> dict[tuple[Path, str], str | None]:
    """The split of each name among its siblings: {(folder, name): split}."""
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
