"""The stories as a corpus with splits, and their facts as files."""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

from lumenspark.data.documents import Corpus, Piece
from lumenspark.data.split_names import SPLITS
from lumenspark.data.tales.story import story_facts, write_story
from lumenspark.errors import UserError, quoted
from lumenspark.files import new_folder

FORMAT = 1  # increment when the stories change
SEED = 0
STORIES_PER_MEGABYTE = 1_000  # of text, about
MEGABYTES = 20  # of the train split, unless the name says otherwise
LARGEST = 1_000_000  # megabytes
HELD_OUT = {"validation": 600, "test": 600}  # stories

_NAME = re.compile(r"tales(?:-(\d{1,7})mb)?")
_LIKE_A_NAME = re.compile(r"tales(?:-\w*)?")  # neither a path nor the id of a hub dataset


def is_tales(source: str) -> bool:
    """Whether a name means this corpus, in some size."""
    return _LIKE_A_NAME.fullmatch(source) is not None


class Tales(Corpus):
    """``tales``, with about 20 MB for training, or ``tales-100mb``. Nothing is stored.

    Validation and test are other stories than those of train, and the same for every size.
    """

    layout = "plain"
    license = "MIT"
    language = "en"
    prompt = "There was once"  # the beginning of a story

    def __init__(self, name: str = "tales") -> None:
        match = _NAME.fullmatch(name)
        megabytes = int(match[1] or MEGABYTES) if match else 0
        if not 0 < megabytes <= LARGEST:
            raise UserError(
                f"there is no corpus {quoted(name)}: write tales, or tales-100mb for another size"
            )
        self.name = name
        self._stories = {"train": megabytes * STORIES_PER_MEGABYTE, **HELD_OUT}

    def digest(self) -> str:
        written = "".join(_held_out_text(split) for split in HELD_OUT)
        identity = f"{FORMAT}\n{SEED}\n{self._stories}\n{written}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def size(self, split: str) -> int:
        return self._stories[split] * 1_000_000 // STORIES_PER_MEGABYTE

    def documents(self, split: str) -> Iterator[Piece]:
        for number in range(self._stories[split]):
            yield Piece(write_story(SEED, split, number).text)

    def entropy(self, split: str) -> float:
        return self._entropies[split]

    @cached_property
    def _entropies(self) -> dict[str, float]:
        stories = {
            split: [write_story(SEED, split, number) for number in range(count)]
            for split, count in HELD_OUT.items()
        }
        stories["train"] = stories["validation"]  # all splits have the same distribution
        return {
            split: sum(story.bits for story in part)
            / sum(len(story.text.encode()) for story in part)
            for split, part in stories.items()
        }

    def write_facts(self, folder: Path) -> None:
        """Write the text of each split, and what is known about it, into a new ``folder``.

        A line of ``train.facts.jsonl`` is about a story of ``train.txt``, in order
        (:func:`.story.story_facts`); ``start`` is where the story begins, in characters.

        Raises UserError for a folder with files, or that cannot be written.
        """
        with new_folder(folder) as new:
            for split, count in self._stories.items():
                start = 0
                with (
                    (new / f"{split}.txt").open("w", encoding="utf-8", newline="\n") as text,
                    (new / f"{split}.facts.jsonl").open("w", encoding="utf-8") as facts,
                ):
                    for number in range(count):
                        story = write_story(SEED, split, number, facts=True)
                        text.write(story.text)
                        facts.write(json.dumps({"start": start, **story_facts(story)}) + "\n")
                        start += len(story.text)


@cache
def _held_out_text(split: str) -> str:
    return "".join(write_story(SEED, split, number).text for number in range(HELD_OUT[split]))
