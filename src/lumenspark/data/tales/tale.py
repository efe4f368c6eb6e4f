"""A story in the making: its world, its cast and its text."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from lumenspark.data.tales import tables
from lumenspark.data.tales.choices import Choices
from lumenspark.data.tales.narrator import Narrator, Slot, Unit, capitalised, with_article
from lumenspark.data.tales.places import INDOORS, OUTDOORS, PLACES
from lumenspark.data.tales.sections import sections
from lumenspark.data.tales.tables import WEATHER, Species, Trade
from lumenspark.data.tales.world import HE, HOURS, SHE, Character, Place, Thing, World

ALL_PLACES = INDOORS + OUTDOORS
WINTER = ("snow", "frost", "thaw")


class Kind(NamedTuple):
    """A kind of person: a girl, an old man."""

    noun: str
    is_she: bool


KINDS = tuple(
    [Kind(noun, True) for noun in tables.HER_KINDS]
    + [Kind(noun, False) for noun in tables.HIS_KINDS]
)
YOUNG = tuple(kind for kind in KINDS if kind.noun in {"girl", "boy"})
GROWN = tuple(kind for kind in KINDS if kind not in YOUNG)


@cache
def sentences() -> dict[str, tuple[str, ...]]:
    """The templates of each event."""
    return sections("sentences.txt")


class Tale:
    """What a plot works with.

    ``slots`` are what the templates' keys stand for (:mod:`.narrator`); :meth:`tell` takes more.
    """

    def __init__(self, choices: Choices, record: bool = False) -> None:
        self.choices = choices
        self.record = record
        self.narrator = Narrator(record)
        self.world = World()
        self.town = self._town_name()
        self.units: list[Unit] = []
        self.slots: dict[str, Slot] = {"town": self.town, "hour": self.hour}
        self._voice = choices.later(tables.VOICES)
        self._names: list[str] = []

    # Telling

    def tell(self, event: str, **slots: Slot) -> None:
        """Write a sentence of ``event``, with what holds after it."""
        self.line(event, self.choices.pick(sentences()[event]), **slots)

    def line(self, event: str, template: str, **slots: Slot) -> None:
        """Write ``template`` as an ``event``."""
        unit = self.narrator.write(event, template, {**self.slots, **slots})
        if self.record:
            self.units.append(unit._replace(state=self.world.state()))

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
        person = self._character(is_she, is_person=True, place=place)
        nouns = [with_article(kind.noun) for kind in kinds if kind.is_she == is_she]
        slots: dict[str, Slot] = {key: person, f"{key.lower()}_kind": self.choices.later(nouns)}
        self.set(**slots)
        return person

    def animal(self, key: str, species: Species, place: Place | None = None) -> Character:
        """A new animal as slot ``key``, with what is known about its species."""
        is_she = self.choices.chance(1, 2)
        animal = self._character(is_she, is_person=False, place=place)
        self.set(**{key: animal}, species=species.name, skill=species.skill, call=species.call)
        self.set(adjective=self.choices.later(tables.ADJECTIVES))
        return animal

    def _character(self, is_she: bool, is_person: bool, place: Place | None) -> Character:
        name = self._name(tables.HER_ENDINGS if is_she else tables.HIS_ENDINGS)
        pronouns = SHE if is_she else HE
        character = Character(name, pronouns, is_person, place)
        self.world.characters.append(character)
        return character

    def _name(self, endings: tuple[str, ...]) -> str:
        """A name that begins like no other name of the story."""
        onsets = [onset for onset in tables.ONSETS if onset[0] not in self._names]
        name = self.choices.pick(onsets) + self.choices.pick(tables.VOWELS)
        if self.choices.chance(2, 5):
            name += self.choices.pick(tables.ONSETS) + self.choices.pick(tables.VOWELS)
        name += self.choices.pick(tables.INNER) + self.choices.pick(endings)
        self._names.append(name[0])
        return capitalised(name)

    def _town_name(self) -> str:
        onset, vowel = self.choices.pick(tables.ONSETS), self.choices.pick(tables.VOWELS)
        inner, ending = self.choices.pick(tables.INNER), self.choices.pick(tables.PLACE_ENDINGS)
        return capitalised(onset + vowel + inner + ending)

    def other_town(self) -> None:
        """Another town as slot ``town2``."""
        self.set(town2=self._town_name())

    def place(self, key: str, places: tuple[Place, ...] = ALL_PLACES) -> Place:
        """A place as slot ``key``, which no other slot holds."""
        taken = [filler for filler in self.slots.values() if isinstance(filler, Place)]
        place = self.choices.pick_other(places, taken)
        self.set(**{key: place})
        return place

    def trade(self, trades: tuple[Trade, ...] = tables.TRADES) -> Trade:
        """A trade, as slots ``trade`` and ``habit``."""
        trade = self.choices.pick(trades)
        self.set(trade=trade.name, habit=trade.habit)
        return trade

    def treasure(self, key: str, noun: str | None = None) -> Thing:
        """Something to treasure, as slot ``key``."""
        if noun is None:
            noun = self.choices.pick(tables.TREASURES)
        adjective = self.choices.pick(tables.LOOKS)
        return self.thing(key, noun, adjective)

    def thing(self, key: str, noun: str, adjective: str = "") -> Thing:
        thing = Thing(noun, adjective)
        self.world.things.append(thing)
        self.set(**{key: thing})
        return thing

    def food(self, key: str = "food") -> Callable[[], str]:
        """Something to eat, as slots ``food_a`` (with its article) and ``food_bare``."""
        food = self.choices.later(tables.FOODS)
        self.set(**{f"{key}_bare": food, f"{key}_a": lambda: with_article(food())})
        return food

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
            self.line("before", self.choices.pick(self._voice().before))

    def see(self, place: Place) -> None:
        """A sentence about a place, or none: outdoors they are not about winter."""
        in_winter = place.outdoors and self.world.weather in WINTER
        if not in_winter and self.choices.chance(1, 2):
            self.line("place", self.choices.pick(place.details))

    def weather(self, winter: bool = True) -> None:
        """A sentence about the weather."""
        kinds = WEATHER if winter else [kind for kind in WEATHER if kind[0] not in WINTER]
        name, lines = self.choices.pick(kinds)
        self.world.weather = name
        self.line("weather", self.choices.pick(lines))

    def later(self, hours: int = 1) -> None:
        """The time of day moves on."""
        self.world.hour = ((self.world.hour or 0) + hours) % len(HOURS)
        if self.choices.chance(1, 2):
            self.line("time", self.choices.pick(tables.TIMES[HOURS[self.world.hour]]))

    def next_morning(self) -> None:
        self.world.hour = 0

    def aside(self) -> None:
        """A remark of the narrator, or none."""
        if self.choices.chance(1, 3):
            self.line("aside", self.choices.pick(self._voice().asides))

    def saying(self, event: str) -> None:
        """A saying: quoted by B, remembered from the giver, or on its own."""
        self.tell(event, **saying_slots(self.choices.pick(tables.SAYINGS)))

    def quirk(self, key: str = "A") -> None:
        self.tell("quirk", A=self.slots[key], quirk=self.choices.pick(tables.QUIRKS))

    def end(self) -> None:
        """What the narrator says last, or nothing."""
        if self.choices.chance(3, 5):
            ending = self.choices.pick(self._voice().endings)
            saying = self.choices.later(tables.SAYINGS)
            self.line(
                "end",
                ending,
                saying=saying,
                saying_low=lambda: saying_slots(saying())["saying_low"],
            )

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
