"""Sentences about a world: templates, references to characters and things, and spans.

A template is a sentence with slots, ``"{A} gave {T} to {B}."``. A slot is a key, and optionally a
form after a dot:

==============  ========================================================================
``{A}``         a character: pronoun where it is clear who is meant, else the name
``{A.name}``    the name
``{A.him}``     object: him, her, or the name
``{A.his}``     possessive: his, her, or the name with 's
``{A.self}``    himself, herself
``{T}``         a thing: "a brass lantern" at its first mention, then "the brass lantern"
``{T.a}``       with the indefinite article
``{T.the}``     with the definite article
``{T.bare}``    the noun alone
``{T.full}``    adjective and noun
``{T.it}``      it
``{P}``         a place: "the mill"
``{P.at}``      "at the mill", "in the barn", "on the hill"
==============  ========================================================================

A plain string fills a slot as it is; a function is called for what fills it. No reference is a
random choice: the sentences before determine each pronoun and article.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from lumenspark.data.tales.world import Character, Place, Thing

Filler = Character | Thing | Place | str
Slot = Filler | Callable[[], Filler]

_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
_ARTICLE = re.compile(r"(?:^|(?<=[ \"]))([Aa]) $")
_OPENS_SENTENCE = re.compile(r"(?:^|[.!?]\"? |: (?=\"))\"?$")
_ASKED = re.compile(r"[!?]\" $")
_SPEAKING = "said|asked|thought|cried|shouted|called|told|whispered"
_SPEAKS = re.compile(rf" (?:{_SPEAKING})\b")
_SAID = re.compile(rf"\b(?:{_SPEAKING}|went|sat|came|stood|lay|was|only|even) $")
MENTIONS_BY_PRONOUN = 1  # in a row; then the name is repeated


class Part(NamedTuple):
    """A literal text and the slot after it; ``key`` is empty at the end of a template.

    ``article`` is a or A where the literal ended with it: what fills the slot decides whether it
    stays one or becomes an.
    """

    literal: str
    article: str
    key: str
    form: str
    capital: bool


class Mention(NamedTuple):
    """A reference in the text: characters ``start`` to ``end`` of the story."""

    start: int
    end: int
    name: str
    kind: str  # name, noun or pronoun


class Unit(NamedTuple):
    """A sentence, or a few that belong together, with what holds after it."""

    start: int
    end: int
    event: str
    mentions: list[Mention]
    state: dict[str, object]


@cache
def parts_of(template: str) -> tuple[Part, ...]:
    """The template, cut at its slots."""
    parts, place = [], 0
    for match in _SLOT.finditer(template):
        literal = template[place : match.start()]
        before, after = template[: match.start()], template[match.end() :]
        goes_on = _ASKED.search(before) and _SPEAKS.match(after)  # "Why?" she asked
        capital = bool(_OPENS_SENTENCE.search(before)) and not goes_on
        # A name in "said Ana", "it was Ana" and "Ana and Bo", where a pronoun would be odd.
        form = match[2] or ("name" if _SAID.search(before) or literal == " and " else "")
        article = _ARTICLE.search(literal)
        if article:
            literal = literal[: article.start()]
        parts.append(Part(literal, article[1] if article else "", match[1], form, capital))
        place = match.end()
    parts.append(Part(template[place:], "", "", "", False))
    return tuple(parts)


def with_article(words: str, article: str = "a") -> str:
    """``words`` with a or an; ``article``: a or A."""
    if words.startswith("hour"):
        return f"{article}n {words}"
    begins_with_vowel = words[0] in "aeiou" and not words.startswith(("one-", "uni", "use"))
    return f"{article}{'n' if begins_with_vowel else ''} {words}"


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


class Narrator:
    """Writes units of text, and keeps track of who was mentioned how."""

    def __init__(self, record: bool) -> None:
        self._texts: list[str] = []
        self._length = 0
        self._record = record
        self._mentions: list[Mention] = []
        self._now: list[Character] = []  # mentioned in this unit
        self._before: list[Character] = []  # mentioned in the unit before
        self._focus: Character | None = None  # subject of the unit before
        self._pronouns = 0  # of the focus, in a row

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def paragraph(self) -> None:
        """Begin a new paragraph. Names are used again."""
        if self._texts:
            self._texts.append("\n")
            self._length += 1
        self._before, self._focus, self._pronouns = [], None, 0

    def write(self, event: str, template: str, slots: Mapping[str, Slot]) -> Unit:
        """Write ``template`` with its ``slots`` filled."""
        if self._texts and self._texts[-1] != "\n":
            self._texts.append(" ")
            self._length += 1
        start = self._length
        self._now, self._mentions, first = [], [], None
        for literal, article, key, form, capital in parts_of(template):
            filler = slots[key] if key else ""
            if callable(filler):
                filler = filler()
            if article:
                literal += with_article(str(filler), article)[: -len(str(filler))]
            if literal:
                self._texts.append(literal)
                self._length += len(literal)
            if not key:
                break
            if first is None and isinstance(filler, Character) and form in {"", "name"}:
                first = filler
            text = self._filled(filler, form)
            if capital:
                text = capitalised(text)
            self._texts.append(text)
            self._length += len(text)
        self._take_note(first)
        return Unit(start, self._length, event, self._mentions, {})

    def _take_note(self, subject: Character | None) -> None:
        if subject is None:
            self._focus, self._pronouns = None, 0
        elif subject is not self._focus:
            self._focus, self._pronouns = subject, 0
        self._before = self._now

    def _filled(self, filler: Filler, form: str) -> str:
        if isinstance(filler, str):
            return filler
        if isinstance(filler, Character):
            return self._character(filler, form)
        if isinstance(filler, Place):
            phrase = filler.at if form == "at" else filler.phrase
            self._note(phrase, filler.phrase, "noun", len(phrase) - len(filler.noun))
            return phrase
        return self._thing(filler, "" if form == "name" else form)

    def _thing(self, thing: Thing, form: str) -> str:
        if form == "it":
            self._note("it", thing.full, "pronoun")
            return "it"
        if form == "bare":
            phrase = thing.noun
        elif form == "full":
            phrase = thing.full
        elif form == "a" or (not form and not thing.mentioned):
            phrase = with_article(thing.full)
        else:
            phrase = f"the {thing.full}"
        thing.mentioned = True
        self._note(phrase, thing.full, "noun", len(phrase) - len(thing.noun))
        return phrase

    def _character(self, character: Character, form: str) -> str:
        by_pronoun = form != "name" and self._is_clear(character)
        if character not in self._now:
            self._now.append(character)
            if character is self._focus:
                self._pronouns = self._pronouns + 1 if by_pronoun else 0
        if form == "self":
            phrase = character.pronouns.himself
        elif by_pronoun:
            pronouns = character.pronouns
            phrase = {"": pronouns.he, "him": pronouns.him, "his": pronouns.his}[form]
        else:
            phrase = character.name + ("'s" if form == "his" else "")
        pronoun = by_pronoun or form == "self"
        self._note(phrase, character.name, "pronoun" if pronoun else "name")
        return phrase

    def _is_clear(self, character: Character) -> bool:
        """Whether a pronoun can only mean ``character`` here."""
        pronouns = character.pronouns
        if any(c is not character and c.pronouns is pronouns for c in self._now):
            return False
        if character in self._now:
            return True
        if character is not self._focus or self._pronouns >= MENTIONS_BY_PRONOUN:
            return False
        return all(c is character or c.pronouns is not pronouns for c in self._before)

    def _note(self, phrase: str, name: str, kind: str, skipped: int = 0) -> None:
        """Record a mention; its span leaves out ``skipped`` characters: article, adjective."""
        if self._record:
            start = self._length
            end = start + len(phrase) - (2 if kind == "name" and phrase.endswith("'s") else 0)
            self._mentions.append(Mention(start + skipped, end, name, kind))
