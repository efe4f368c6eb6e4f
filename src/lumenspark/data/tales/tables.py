"""What the stories are about, typed: trades, animals, things, traps, wishes, voices and the like.

The content is in ``tables.txt`` and ``voices.txt``, with the meaning of each column.
"""

from typing import NamedTuple

from lumenspark.data.tales.sections import cells, sections
from lumenspark.data.tales.world import HOURS


class Trade(NamedTuple):
    """A trade: where it is done, with what, and what comes of it."""

    name: str
    place: str
    tools: tuple[str, ...]
    products: tuple[str, ...]
    habit: str


class Species(NamedTuple):
    """An animal: where it lives, what it likes, its call, its skill and its kind (``REPAYS``)."""

    name: str
    place: str
    food: str
    call: str
    skill: str
    kind: str


class Repay(NamedTuple):
    """A kind of animal, a trouble, and how such an animal helps: templates."""

    kind: str
    trouble: str
    deed: str


class Treasure(NamedTuple):
    """A thing to treasure: how it may look, whether a note fits in, whether one can make it."""

    noun: str
    looks: tuple[str, ...]
    is_hollow: bool
    is_made: bool


class Task(NamedTuple):
    task: str
    tool: str


class Trap(NamedTuple):
    """What an animal is caught in, where, the tool that helps, and which animals it can catch."""

    trap: str
    place: str
    tool: str
    catches: str


class Riddle(NamedTuple):
    riddle: str
    answer: str


class Chore(NamedTuple):
    """A chore, what distracts from it, and the damage and repair that follow."""

    chore: str
    distraction: str
    damage: str
    repair: str


class Fear(NamedTuple):
    """What is feared, why, the way past it, what happens there, and what it was in truth."""

    fear: str
    reason: str
    way: str
    event: str
    truth: str


class Problem(NamedTuple):
    problem: str
    solution: str


class Wish(NamedTuple):
    """A wish, what is good about it when it comes true, and what is bad."""

    wish: str
    good: str
    bad: str


class Obstacle(NamedTuple):
    """What is in the way, and the way over it: templates."""

    obstacle: str
    over: str


class Danger(NamedTuple):
    """What threatens a plant, and what saves it: templates."""

    danger: str
    saving: str


class Hint(NamedTuple):
    hint: str
    place: str


class Trick(NamedTuple):
    """What one animal says, and how the other loses its food by it: templates."""

    flattery: str
    fall: str


class Lie(NamedTuple):
    """A deed (a template), three lies about it, each bigger, and what the town does."""

    deed: str
    first: str
    second: str
    third: str
    panic: str


class Weather(NamedTuple):
    name: str
    lines: tuple[str, ...]


class Voice(NamedTuple):
    """A narrator: what is said before a story, in between, and at its end."""

    name: str
    before: tuple[str, ...]
    asides: tuple[str, ...]
    endings: tuple[str, ...]


_TABLES = sections("tables.txt")
_VOICES = sections("voices.txt")


def _rows(section: str) -> list[tuple[str, ...]]:
    return [cells(line) for line in _TABLES[section]]


def _row(section: str) -> tuple[str, ...]:
    return _rows(section)[0]


def _treasures() -> tuple[Treasure, ...]:
    looks = {name: _TABLES[f"looks.{name}"] for name in (row[1] for row in _rows("treasures"))}
    anything = _TABLES["looks.any"]
    return tuple(
        Treasure(noun, looks[stuff] + anything, "hollow" in traits, "made" in traits)
        for noun, stuff, traits in ((*row, "")[:3] for row in _rows("treasures"))
    )


def _weather() -> tuple[Weather, ...]:
    names = [name for name in _TABLES if name.startswith("weather.")]
    return tuple(Weather(name.removeprefix("weather."), _TABLES[name]) for name in names)


def _voices() -> tuple[Voice, ...]:
    names = dict.fromkeys(section.split(".")[0] for section in _VOICES)
    return tuple(
        Voice(n, _VOICES[f"{n}.before"], _VOICES[f"{n}.asides"], _VOICES[f"{n}.endings"])
        for n in names
    )


ONSETS = _row("onsets")
VOWELS = _row("vowels")
INNER = _row("inner")
HER_ENDINGS = _row("her endings")
HIS_ENDINGS = _row("his endings")
PLACE_ENDINGS = _row("place endings")
HER_KINDS = _row("her kinds")
HIS_KINDS = _row("his kinds")
TRADES = tuple(
    Trade(name, place, cells(tools, ","), cells(products, ","), habit)
    for name, place, tools, products, habit in _rows("trades")
)
ANIMALS = tuple(Species(*row) for row in _rows("animals"))
REPAYS = tuple(Repay(*row) for row in _rows("repays"))
FOODS = _TABLES["foods"]
TREASURES = _treasures()
SEEDS = _TABLES["seeds"]
PRIZES = _TABLES["prizes"]
QUIRKS = _TABLES["quirks"]
GIVERS = _TABLES["givers"]
ADJECTIVES = _TABLES["adjectives"]
TASKS = tuple(Task(*row) for row in _rows("tasks"))
TRAPS = tuple(Trap(*row) for row in _rows("traps"))
RIDDLES = tuple(Riddle(*row) for row in _rows("riddles"))
CHORES = tuple(Chore(*row) for row in _rows("chores"))
CONTESTS = _TABLES["contests"]
PRICES = _TABLES["prices"]
FEARS = tuple(Fear(*row) for row in _rows("fears"))
PROBLEMS = tuple(Problem(*row) for row in _rows("problems"))
WISHES = tuple(Wish(*row) for row in _rows("wishes"))
SPIRITS = _TABLES["spirits"]
OBSTACLES = tuple(Obstacle(*row) for row in _rows("obstacles"))
DANGERS = tuple(Danger(*row) for row in _rows("dangers"))
HINTS = tuple(Hint(*row) for row in _rows("hints"))
TRICKS = tuple(Trick(*row) for row in _rows("tricks"))
REVENGES = _TABLES["revenges"]
RIDES = _TABLES["rides"]
FEASTS = _TABLES["feasts"]
LIES = tuple(Lie(*row) for row in _rows("lies"))
DEBTS = _TABLES["debts"]
SAYINGS = _TABLES["sayings"]
WEATHER = _weather()
TIMES = {hour: _TABLES[f"time.{hour}"] for hour in HOURS[1:]}
VOICES = _voices()
