"""The lines and tables of the stories: no duplicates, valid conditions, all of them told."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from lumenspark.data.tales import tables
from lumenspark.data.tales.choices import Choices, Item
from lumenspark.data.tales.narrator import parts_of
from lumenspark.data.tales.places import HOMES, PLACES
from lumenspark.data.tales.plots import PLOTS
from lumenspark.data.tales.sections import sections
from lumenspark.data.tales.tale import SENTENCES, Tale, fitting, place_of

FILES = ("sentences.txt", "tables.txt", "voices.txt", "places.txt")
TEMPLATES = [line for lines in SENTENCES.values() for line in lines]
TEMPLATES += [
    cell
    for section in ("repays", "obstacles", "dangers", "tricks", "revenges", "rides", "lies")
    for line in sections("tables.txt")[section]
    for cell in line.split(" | ")
]
ALWAYS = ("day", "dark", "dry", "rain", "cold", "mild")
SPEAKING = ("said", "asked", "thought", "cried", "shouted", "called", "told", "whispered")
PREPOSITIONS = "to|from|with|of|by|in|into|behind|beside|near|between|towards|against|past"


@pytest.mark.parametrize("file", FILES)
def test_no_line_is_there_twice(file: str) -> None:
    for name, lines in sections(file).items():
        assert lines, name
        assert len(set(lines)) == len(lines), name


def test_no_two_narrators_share_a_line() -> None:
    lines = [line for lines in sections("voices.txt").values() for line in lines]
    assert len(set(lines)) == len(lines)


def test_rows_are_unique_by_what_the_text_shows() -> None:
    for rows in (tables.TRADES, tables.ANIMALS, tables.TREASURES, PLACES.values(), HOMES):
        names = [row[0] for row in rows]
        assert len(set(names)) == len(names)
    assert len({trade.place for trade in tables.TRADES}) == len(tables.TRADES)


def test_conditions_are_known() -> None:
    for file in FILES:
        for name, lines in sections(file).items():
            for line in lines:
                for cell in line.split(" | "):
                    assert not fitting((cell,), ALWAYS)[0].startswith("("), (name, cell)


def test_places_of_tables_exist() -> None:
    for row in (*tables.TRADES, *tables.ANIMALS, *tables.TRAPS, *tables.HINTS):
        assert row.place in PLACES


def test_no_tool_lies_where_it_is_missing() -> None:
    for trap in tables.TRAPS:
        owners = [trade for trade in tables.TRADES if trap.tool in trade.tools]
        assert any(place_of(trade) != PLACES[trap.place] for trade in owners), trap
    for task in tables.TASKS:
        assert any(task.tool in trade.tools for trade in tables.TRADES), task


def test_objects_have_their_form() -> None:
    """A character's slot without a form is a nominative: a clause begins there.

    No preposition and no verb stands before it, and a verb follows it.
    """
    for template in TEMPLATES:
        before = ""
        for part, following in pairwise(parts_of(template)):
            before += part.literal
            if part.key in {"A", "B", "C", "D"} and not part.form:
                assert not re.search(rf"\b({PREPOSITIONS}) $", before), template
                verb = re.match(
                    r" (?!to |from |with |by |in |for |a |the )(\w|$)", following.literal
                )
                assert verb, template
            before += part.key


def test_said_follows_each_question() -> None:
    """After a quote that asks, a lower-case word may only go on with the sentence."""
    for template in TEMPLATES:
        for word in re.findall(r'[?!]" ([a-z]\w+)', template):
            assert word in {*SPEAKING, "it", "they", "somebody"}, template


class Evenly(Choices):
    """Rare lines as often as common ones."""

    def pick(self, options: Sequence[Item], halves: int = 0) -> Item:
        return self.pick_evenly(options)


@pytest.mark.slow
def test_each_line_is_told() -> None:
    told: set[str] = set()
    for index, plot in enumerate(PLOTS.values()):
        for number in range(500):
            tale = Tale(Evenly(5, index, number), record=True)
            plot(tale)
            tale.end()
            told.update(tale.lines)
    tale = Tale(Evenly(6), record=True)
    for _ in range(1000):
        tale.world.weather, tale.world.is_cold = "", False
        tale.weather()
        tale.at_hour(1 + tale.choices.below(4))
    tale.world.is_cold = False
    for place in PLACES.values():
        for tale.world.weather in ("sun", "rain"):
            for tale.world.hour in 50 * (0,):
                tale.see(place)
    told.update(tale.lines)
    files = sections("sentences.txt"), sections("voices.txt")
    lines = [line for file in files for section in file.values() for line in section]
    lines += [line for place in PLACES.values() for line in place.details]
    lines += [line for weather in tables.WEATHER for line in weather.lines]
    lines += [line for times in tables.TIMES.values() for line in times]
    lines += [*tables.REVENGES, *tables.RIDES, *tables.QUIRKS, *tables.SAYINGS]
    lines += [cell for row in (*tables.OBSTACLES, *tables.TRICKS) for cell in row]
    untold = [line for line in lines if fitting((line,), ALWAYS)[0] not in told]
    assert not untold


def test_units_follow_each_other() -> None:
    for number in range(100):
        tale = Tale(Choices(5, number), record=True)
        PLOTS["lost"](tale)
        for first, second in pairwise(tale.units):
            assert second.start == first.end + 1
