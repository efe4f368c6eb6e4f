"""A story in the making: its world, its cast and its text."""

import re
from functools import cache
from typing import NamedTuple

from lumenspark.data.tales import tables
from lumenspark.data.tales.choices import Choices
from lumenspark.data.tales.narrator import Narrator, Slot, Unit, capitalised, with_article
from lumenspark.data.tales.places import INDOORS, OUTDOORS, PLACES
from lumenspark.data.tales.sections import sections
from lumenspark.data.tales.tables import Species, Trade, Treasure
from lumenspark.data.tales.world import COLD, HE, HOURS, SHE, Character, Place, Thing, World

ALL_PLACES = INDOORS + OUTDOORS
SENTENCES = sections("sentences.txt")

_CONDITIONS = re.compile(r"\(([a-z ]+)\) ")


class Kind(NamedTuple):
    """A kind of person: a girl, an old man."""

    noun: str
    is_she: bool


KINDS = tuple(
    [Kind(noun, True) for noun in tables.HER_KINDS]
    + [Kind(noun, False) for noun in tables.HIS_KINDS]
)
CHILDREN = tuple(kind for kind in KINDS if kind.noun in {"girl", "boy"})
GROWN = tuple(kind for kind in KINDS if kind not in CHILDREN)
YOUNG = CHILDREN + tuple(kind for kind in GROWN if kind.noun.startswith("young"))


@cache
def fitting(lines: tuple[str, ...], conditions: tuple[str, ...]) -> tuple[str, ...]:
    """The lines whose conditions, as in "(day dry) ...", are all met, without these."""
    fit = []
    for line in lines:
        match = _CONDITIONS.match(line)
        if not match:
            fit.append(line)
        elif all(condition in conditions for condition in match[1].split()):
            fit.append(line[match.end() :])
    return tuple(fit)


class Tale:
    """What a plot works with.

    ``slots`` are what the templates' keys stand for (:mod:`.narrator`); :meth:`tell` takes more.
    ``lines`` are the lines of the resources that it took, where facts are recorded.
    """

    def __init__(self, choices: Choices, record: bool = False) -> None:
        self.choices = choices
        self.record = record
        self.narrator = Narrator(record)
        self.world = World()
        self.units: list[Unit] = []
        self.lines: list[str] = []
        self.slots: dict[str, Slot] = {"hour": self.hour}
        self.town("town")
        self._voice = choices.later(tables.VOICES)
        self._names: list[str] = []

    # Telling

    def tell(self, event: str, inner: str = "", **slots: Slot) -> None:
        """Write a sentence of ``event``, with what holds after it; ``inner`` is a part of it."""
        line = self._line(SENTENCES[event])
        if self.record and inner:
            self.lines.append(inner)
        self._write(event, line.replace("{inner}", inner), slots)

    def line(self, event: str, line: str) -> None:
        """Write a line of a table as an ``event``."""
        if self.record:
            self.lines.append(line)
        self._write(event, line, {})

    def _write(self, event: str, template: str, slots: dict[str, Slot]) -> None:
        unit = self.narrator.write(event, template, {**self.slots, **slots})
        if self.record:
            self.units.append(unit._replace(state=self.world.state()))

    def _line(self, lines: tuple[str, ...]) -> str:
        """One of the lines that fit the moment."""
        line = self.choices.pick(fitting(lines, self.world.conditions()), halves=4)
        if self.record:
            self.lines.append(line)
        return line

    def set(self, **slots: Slot) -> None:
        """Fill ``slots`` for the rest of the story."""
        self.slots.update(slots)

    def paragraph(self) -> None:
        self.narrator.paragraph()

    # Choosing who and what. What the text may not show is drawn when it does.

    def person(
        self, key: str, place: Place | None = None, kinds: tuple[Kind, ...] = KINDS
    ) -> Character:
        """A new person as slot ``key``; slot ``key_kind``, in lower case, is as "an old man"."""
        is_she = self.choices.chance(1, 2)
        person = self._character(is_she, place)
        nouns = [with_article(kind.noun) for kind in kinds if kind.is_she == is_she]
        slots: dict[str, Slot] = {key: person, f"{key.lower()}_kind": self.choices.later(nouns)}
        self.set(**slots)
        return person

    def animal(self, key: str, species: Species, place: Place | None = None) -> Character:
        """A new animal as slot ``key``, with what is known about its species."""
        is_she = self.choices.chance(1, 2)
        animal = self._character(is_she, place)
        self.set(**{key: animal}, species=species.name, skill=species.skill, call=species.call)
        self.set(adjective=self.choices.later(tables.ADJECTIVES))
        return animal

    def _character(self, is_she: bool, place: Place | None) -> Character:
        name = self._name(tables.HER_ENDINGS if is_she else tables.HIS_ENDINGS)
        character = Character(name, SHE if is_she else HE, place)
        self.world.characters.append(character)
        return character

    def _name(self, endings: tuple[str, ...]) -> str:
        """A name that begins like no other name of the story."""
        onsets = [onset for onset in tables.ONSETS if onset[0] not in self._names]
        parts = [onsets, tables.VOWELS, tables.INNER, endings]
        if self.choices.chance(1, 2):
            parts[2:2] = [tables.ONSETS, tables.VOWELS]
        name = "".join(self.choices.pick_evenly(part) for part in parts)
        self._names.append(name[0])
        return capitalised(name)

    def town(self, key: str) -> None:
        """A town as slot ``key``."""
        names: list[str] = []

        def name() -> str:
            if not names:
                parts = (tables.ONSETS, tables.VOWELS, tables.INNER, tables.PLACE_ENDINGS)
                names.append(capitalised("".join(self.choices.pick_evenly(part) for part in parts)))
            return names[0]

        self.set(**{key: name})

    def place(self, key: str, places: tuple[Place, ...] = ALL_PLACES) -> Place:
        """A place as slot ``key``, which no other slot holds."""
        taken = [filler for filler in self.slots.values() if isinstance(filler, Place)]
        place = self.choices.pick_other(places, taken)
        self.set(**{key: place})
        return place

    def trader(self, key: str, trade: Trade) -> Character:
        """A grown-up person at work, as slot ``key``; slots ``trade``, ``habit`` and P2, where."""
        self.set(trade=trade.name, habit=trade.habit, P2=place_of(trade))
        return self.person(key, place_of(trade), GROWN)

    def treasure(self, key: str, treasures: tuple[Treasure, ...] = tables.TREASURES) -> Thing:
        """Something to treasure, as slot ``key``."""
        treasure = self.choices.pick(treasures)
        return self.thing(key, treasure.noun, self.choices.pick(treasure.looks))

    def thing(self, key: str, noun: str, adjective: str = "") -> Thing:
        thing = Thing(noun, adjective)
        self.world.things.append(thing)
        self.set(**{key: thing})
        return thing

    def food(self) -> None:
        """Something to eat, as slots ``food_a`` (with its article) and ``food_bare``."""
        food = self.choices.later(tables.FOODS)
        self.set(food_bare=food, food_a=lambda: with_article(food()))

    def giver(self) -> None:
        """Who gives presents and is quoted, as slot ``giver``."""
        self.set(giver=self.choices.later(tables.GIVERS))

    def hour(self) -> str:
        """The time of day, as in "one morning"."""
        if self.world.hour is None:
            self.world.hour = self.choices.below(3)
        name = HOURS[self.world.hour]
        return "day" if name == "noon" else name

    # Sentences that fit anywhere

    def begin(self) -> None:
        """What the narrator says first."""
        if self.choices.chance(1, 2):
            self._write("before", self._line(self._voice().before), {})

    def see(self, place: Place) -> None:
        """A sentence about a place, or none: outdoors they are not about winter."""
        if not (place.outdoors and self.world.is_cold) and self.choices.chance(1, 2):
            self._write("place", self._line(place.details), {})

    def weather(self, winter: bool = True) -> None:
        """A sentence about the weather."""
        kinds = [kind for kind in tables.WEATHER if winter or kind.name not in COLD]
        kind = self.choices.pick(kinds)
        self.world.set_weather(kind.name)
        self._write("weather", self._line(kind.lines), {})

    def later(self) -> None:
        """The time of day moves on."""
        self.at_hour(((self.world.hour or 0) + 1) % len(HOURS))

    def at_hour(self, hour: int) -> None:
        self.world.hour = hour
        if self.choices.chance(1, 2):
            self._write("time", self._line(tables.TIMES[HOURS[hour]]), {})

    def next_morning(self) -> None:
        self.world.hour = 0

    def aside(self) -> None:
        """A remark of the narrator, or none."""
        if self.choices.chance(1, 3):
            self._write("aside", self._line(self._voice().asides), {})

    def saying(self, event: str) -> None:
        """A saying, or none: quoted by B, remembered from the giver, or on its own."""
        if self.choices.chance(1, 3):
            self.tell(event, **saying_slots(self._line(tables.SAYINGS)))

    def quirk(self) -> None:
        """What is odd about A, or nothing."""
        if self.choices.chance(2, 3):
            self.tell("quirk", quirk=self._line(tables.QUIRKS))

    def end(self) -> None:
        """What the narrator says last, or nothing."""
        if self.choices.chance(3, 5):
            ending = self._line(self._voice().endings)
            saying = self.choices.pick(tables.SAYINGS) if "{saying" in ending else "."
            self._write("end", ending, {**saying_slots(saying)})

    # Movement

    def go(self, who: str, place: str) -> None:
        """Character ``who`` goes to the place in slot ``place``, and looks around."""
        character, target = self.slots[who], self.slots[place]
        assert isinstance(character, Character)
        assert isinstance(target, Place)
        self.world.go(target, character)
        self.tell("go", A=character, Q=target)
        self.see(target)


def saying_slots(saying: str) -> dict[str, str]:
    return {
        "saying": saying,
        "saying_low": saying[0].lower() + saying[1:],
        "saying_bare": saying.rstrip("."),
    }


def place_of(trade: Trade) -> Place:
    return PLACES[trade.place]
