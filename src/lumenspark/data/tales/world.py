"""A small world with state: characters, things, places, weather and the time of day."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Pronouns(NamedTuple):
    he: str
    him: str
    his: str
    himself: str


SHE = Pronouns("she", "her", "her", "herself")
HE = Pronouns("he", "him", "his", "himself")

HOURS = ("morning", "noon", "afternoon", "evening", "night")
EVENING, NIGHT = HOURS.index("evening"), HOURS.index("night")
COLD = ("snow", "frost", "thaw")
WET = ("rain", "storm", "fog", "snow", "thaw")


class Place(NamedTuple):
    """A place, with its preposition and sentences about it."""

    noun: str
    preposition: str
    outdoors: bool
    details: tuple[str, ...]

    @property
    def phrase(self) -> str:
        return f"the {self.noun}"

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.noun}"


@dataclass(eq=False)
class Thing:
    """A thing; ``holder`` is who has it now, ``place`` where it lies."""

    noun: str
    adjective: str
    holder: "Character | None" = None
    place: Place | None = None
    broken: bool = False
    mentioned: bool = False
    full: str = field(init=False)

    def __post_init__(self) -> None:
        self.full = f"{self.adjective} {self.noun}" if self.adjective else self.noun


@dataclass(eq=False)
class Character:
    """A person or an animal with a name."""

    name: str
    pronouns: Pronouns
    place: Place | None = None
    mood: str = "calm"
    knows: list[str] = field(default_factory=list)


class World:
    """What holds at the moment.

    ``hour`` is an index into :data:`HOURS`, or None until the story says it; ``weather`` is empty
    until then, and ``is_cold`` after snow, frost or thaw.
    """

    def __init__(self) -> None:
        self.characters: list[Character] = []
        self.things: list[Thing] = []
        self.hour: int | None = None
        self.weather = ""
        self.is_cold = False

    def set_weather(self, weather: str) -> None:
        self.weather = weather
        self.is_cold = self.is_cold or weather in COLD

    def conditions(self) -> tuple[str, ...]:
        """What the conditions of a line may name."""
        return (
            "day" if self.hour is None or self.hour < EVENING else "dark",
            "cold" if self.is_cold else "mild",
            "rain" if self.weather == "rain" else "",
            "" if self.weather in WET else "dry",
        )

    def take(self, who: Character, thing: Thing) -> None:
        thing.holder, thing.place = who, None

    def put(self, thing: Thing, place: Place) -> None:
        thing.holder, thing.place = None, place

    def go(self, place: Place, *who: Character) -> None:
        for character in who:
            character.place = place

    def learn(self, fact: str, *who: Character) -> None:
        for character in who:
            if fact not in character.knows:
                character.knows.append(fact)

    def state(self) -> dict[str, object]:
        """Who and what is where, and who knows what, as plain values."""
        return {
            "time": None if self.hour is None else HOURS[self.hour],
            "weather": self.weather,
            "where": {c.name: c.place.phrase for c in self.characters if c.place},
            "holds": {
                c.name: [t.full for t in self.things if t.holder is c] for c in self.characters
            },
            "lies": {t.full: t.place.phrase for t in self.things if t.place},
            "broken": [t.full for t in self.things if t.broken],
            "knows": {c.name: list(c.knows) for c in self.characters if c.knows},
            "mood": {c.name: c.mood for c in self.characters},
        }
