"""The text of the stories: the same everywhere, varied, and written as English is."""

import hashlib
import os
import re
import subprocess
import sys

from lumenspark.data.tales.story import Story, write_story

# The SHA-256 of the first 200 stories. It changes with any line, table, plot or rule of the
# narrator, and only then: two machines that agree about it train on the same corpus.
SHA_256 = "0a1b2c1dd4773c4249ecec035107eb16a214036b738efc6e33f79fa3668c213e"
DIGEST = """
import hashlib
from lumenspark.data.tales.story import write_story
stories = [write_story(0, "train", number).text for number in range(200)]
print(hashlib.sha256("".join(stories).encode()).hexdigest())
"""
SPEAKING = "said|asked|thought|cried|shouted|called|told|whispered"


def test_stored_digest() -> None:
    texts = [write_story(0, "train", number).text for number in range(200)]
    assert hashlib.sha256("".join(texts).encode()).hexdigest() == SHA_256


def test_same_text_for_each_hash_seed() -> None:
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DIGEST]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == SHA_256


def test_facts_leave_the_text_as_it_is() -> None:
    for number in range(100):
        plain, with_facts = write_story(3, "test", number), write_story(3, "test", number, True)
        assert (plain.text, plain.plot, plain.bits) == with_facts[:3]


def test_seed_split_and_number_change_the_text() -> None:
    places = [(0, "train", 0), (1, "train", 0), (0, "validation", 0), (0, "train", 1)]
    assert len({write_story(*place).text for place in places}) == len(places)


def test_variety(stories: list[Story]) -> None:
    assert len({story.plot for story in stories}) >= 22
    assert len({unit.event for story in stories for unit in story.units}) >= 150
    words = {word for story in stories for word in re.findall(r"\b[a-z]+\b", story.text)}
    assert len(words) >= 2500  # names begin with a capital


def test_lengths(stories: list[Story]) -> None:
    lengths = [len(story.text.encode()) for story in stories]
    assert 900 <= sum(lengths) / len(lengths) <= 1200
    assert min(lengths) >= 400
    assert max(lengths) <= 1800


def test_entropy_is_moderate(stories: list[Story]) -> None:
    share = sum(story.bits for story in stories) / sum(len(story.text) for story in stories)
    assert 0.1 <= share <= 0.22


def _sentence_starts(text: str) -> list[str]:
    return re.findall(r'(?:^|[.!?]"? )(.{0,30})', text, re.M)


def test_sentences_begin_with_capitals(stories: list[Story]) -> None:
    goes_on = re.compile(
        rf"(?:the )?\w+(?: \w+)? (?:{SPEAKING})\b|(?:{SPEAKING})\b|somebody called"
    )
    for story in stories:
        for start in _sentence_starts(story.text.strip()):
            if re.match(r'"?[A-Z]', start):
                continue
            assert re.search(rf'[?!]" {re.escape(start)}', story.text), start
            assert goes_on.match(start), start


def test_lower_case_after_a_colon(stories: list[Story]) -> None:
    for story in stories:
        names = {m.name for unit in story.units for m in unit.mentions if m.kind == "name"}
        for word in re.findall(r": ([A-Z]\w*)", story.text):
            assert word == "I" or word in names, (word, story.text)


def test_punctuation(stories: list[Story]) -> None:
    faults = re.compile(r"[{}]|  | [,.;!?]|\.\.|[,;][,.;]|\?\?|\.,|[.,]\w|\bthe the\b|\ba a\b")
    for story in stories:
        fault = faults.search(story.text)
        assert not fault, story.text[max(0, fault.start() - 40) : fault.end() + 40]
        for paragraph in story.text.splitlines():
            assert paragraph.count('"') % 2 == 0, paragraph


def test_articles(stories: list[Story]) -> None:
    for story in stories:
        for article, word in re.findall(r"\b([Aa]n?) ([a-z][\w-]*)", story.text):
            vowel = word[0] in "aeiou" and not word.startswith(("one-", "uni", "use"))
            assert (article.lower() == "an") == (vowel or word.startswith("hour")), word
