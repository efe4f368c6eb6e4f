"""The entropy of the stories: a lower bound, since the text shows each choice that is counted."""

from collections.abc import Sequence
from itertools import combinations
from math import isclose, log2

import pytest

from lumenspark.data.tales import tables
from lumenspark.data.tales.choices import Choices
from lumenspark.data.tales.narrator import Slot
from lumenspark.data.tales.plots import PLOTS
from lumenspark.data.tales.story import tell_story
from lumenspark.data.tales.tale import SENTENCES, Tale, fitting
from lumenspark.data.tales.world import HE, SHE, Character


class Traced(Choices):
    """Choices with a trace of those that are counted: result, number of results, probability.

    ``change``: a choice by its number, and what it results in instead.
    """

    def __init__(self, *seeds: int, change: tuple[int, int] | None = None) -> None:
        super().__init__(*seeds)
        self.change = change
        self.trace: list[tuple[int, int, float]] = []

    def _noted(self, result: int, count: int, probability: float) -> int:
        if self.change and self.change[0] == len(self.trace):
            result = self.change[1]
        self.trace.append((result, count, probability))
        return result

    def below(self, count: int) -> int:
        return self._noted(super().below(count), count, 1 / count)

    def chance(self, share: int, of: int) -> bool:
        happens = super().chance(share, of)
        return bool(self._noted(int(happens), 2, (share if happens else of - share) / of))

    def _by_weight(self, ends: list[int], bits: list[float]) -> int:
        number = super()._by_weight(ends, bits)
        begin = ends[number - 1] if number else 0
        return self._noted(number, len(ends), (ends[number] - begin) / ends[-1])


class Shrunken(Traced):
    """Choices from the first two of every large table, so that texts come up again."""

    def _draw(self, count: int) -> int:
        is_large = count in (len(tables.ONSETS), len(tables.INNER))
        return super()._draw(2 if is_large else count)

    def _by_weight(self, ends: list[int], bits: list[float]) -> int:
        kept = 2 if len(ends) > 40 else len(ends)
        return super()._by_weight(ends[:kept], bits[:kept])


class Lined(Tale):
    """A tale that keeps the template of each sentence."""

    def _write(self, event: str, template: str, slots: dict[str, Slot]) -> None:
        start = len(self.narrator.text)
        super()._write(event, template, slots)
        text = self.narrator.text[start:].strip()
        written = self.__dict__.setdefault("written", [])
        written.append((event, text, template))


def _told(plot: str, choices: Choices) -> str:
    tale = Tale(choices)
    PLOTS[plot](tale)
    tale.end()
    return tale.narrator.text


def test_bits_sum_the_information_of_all_choices() -> None:
    for number in range(200):
        choices = Traced(1, number)
        tell_story(choices, record=False)
        assert isclose(choices.bits, -sum(log2(p) for _, _, p in choices.trace))


def test_no_choice_without_alternatives_costs_bits() -> None:
    choices = Choices(0)
    choices.below(1)
    choices.pick_unseen("abc")
    choices.later("abc")
    assert choices.bits == 0


def test_later_draws_once() -> None:
    choices = Choices(0)
    letter = choices.later("abcd")
    assert choices.bits == 0
    first, bits = letter(), choices.bits
    assert bits > 0
    assert letter() == first
    assert choices.bits == bits


def test_earlier_options_are_picked_more_often() -> None:
    choices = Choices(0)
    counts = dict.fromkeys("abcd", 0)
    for _ in range(20000):
        counts[choices.pick("abcd", halves=4)] += 1
    shares = [1 / k**2 for k in range(1, 5)]
    for letter, share in zip("abcd", shares, strict=True):
        assert isclose(counts[letter] / 20000, share / sum(shares), abs_tol=0.01)


def test_each_counted_choice_shows_in_the_text() -> None:
    """Another result of any single choice gives another text."""
    for plot in PLOTS:
        for number in range(2):
            choices = Traced(2, number)
            text = _told(plot, choices)
            for index, (result, count, _) in enumerate(choices.trace):
                if count == 1:
                    continue
                changed = Traced(2, number, change=(index, (result + 1) % count))
                assert _told(plot, changed) != text, (plot, number, index, result, count)


def test_a_name_can_be_read_in_one_way_only() -> None:
    for endings in (tables.HER_ENDINGS, tables.HIS_ENDINGS):
        traces: dict[str, Sequence[tuple[int, int, float]]] = {}
        for number in range(20000):
            choices = Traced(3, number)
            name = Tale(choices)._name(endings)
            assert traces.setdefault(name, choices.trace) == choices.trace
    assert not set(tables.HER_ENDINGS) & set(tables.HIS_ENDINGS)


def test_lines_of_a_section_differ_whatever_fills_them() -> None:
    """No two lines of a section are equal up to their slots' fillers of the same story."""
    a, b, c, d = (Character(n, p) for n, p in (("A", SHE), ("B", HE), ("C", SHE), ("D", HE)))
    slots = {"A": a, "B": b, "C": c, "D": d}
    for section, lines in SENTENCES.items():
        texts = []
        for line in fitting(lines, ("day", "dark", "dry", "rain", "cold", "mild")):
            text = line
            for key in slots:
                for form in ("", ".name", ".him", ".self"):
                    text = text.replace(f"{{{key}{form}}}", key)
            texts.append(text)
        assert all(first != second for first, second in combinations(texts, 2)), section


def test_equal_events_are_equal_choices() -> None:
    """Each event, told a thousand times with the same cast: equal texts have equal traces."""
    for event in ("upset", "go", "harsh", "borrow.ask", "lead", "tried", "box.meaning"):
        traces: dict[str, Sequence[tuple[int, int, float]]] = {}
        for number in range(1000):
            choices = Traced(4, number)
            tale = Tale(choices)
            tale.person("A"), tale.person("B")
            tale.set(town="Here")
            tale.food()
            tale.giver()
            tale.place("Q")
            tale.treasure("T")
            tale.thing("U", "saw")
            tale.tell(event, A=Character("Ana", SHE), B=Character("Bo", HE))
            shown = choices.trace[-1]
            assert traces.setdefault(f"{event} {tale.narrator.text}", choices.trace), shown


@pytest.mark.slow
def test_equal_sentences_have_equal_templates() -> None:
    """In 23,000 stories from small tables: a sentence can be read in one way only."""
    templates: dict[tuple[str, str], str] = {}
    traces: dict[str, Sequence[tuple[int, int, float]]] = {}
    repeated = 0
    for index, plot in enumerate(PLOTS.values()):
        for number in range(1000):
            choices = Shrunken(6, index, number)
            tale = Lined(choices)
            plot(tale)
            for event, text, template in tale.__dict__["written"]:
                repeated += (event, text) in templates
                assert templates.setdefault((event, text), template) == template
            story = f"{index} {tale.narrator.text}"
            assert traces.setdefault(story, choices.trace) == choices.trace
    assert repeated > 50_000
