"""What is known about a story agrees with its text."""

import json
import re

from lumenspark.data.tales.choices import Choices
from lumenspark.data.tales.narrator import Slot
from lumenspark.data.tales.plots import PLOTS
from lumenspark.data.tales.story import Story, story_facts, tell_story
from lumenspark.data.tales.tale import Tale
from lumenspark.data.tales.world import Character, Thing

GENDERS = {
    "she": "her",
    "her": "her",
    "herself": "her",
    "he": "him",
    "him": "him",
    "his": "him",
    "himself": "him",
}


def test_facts_are_plain_values(stories: list[Story]) -> None:
    facts = story_facts(stories[0])
    assert json.loads(json.dumps(facts)) == facts
    assert facts["bytes"] == len(stories[0].text.encode())
    assert facts["plot"] == stories[0].plot
    assert facts["bits"] == round(stories[0].bits, 3)


def test_sentences_cover_the_text(stories: list[Story]) -> None:
    for story in stories[:200]:
        spans = [sentence["span"] for sentence in story_facts(story)["sentences"]]
        rest = story.text
        for start, end in reversed(spans):
            rest = rest[:start] + rest[end:]
        assert not rest.strip()


def test_pronouns_are_where_the_facts_say(stories: list[Story]) -> None:
    count = 0
    for story in stories[:500]:
        for sentence in story_facts(story)["sentences"]:
            for pronoun in sentence["pronouns"]:
                start, end = pronoun["span"]
                assert story.text[start:end] == pronoun["word"]
                assert pronoun["word"].lower() in {*GENDERS, "it"}
                count += 1
    assert count > 1500


def test_a_pronoun_means_the_only_one_it_can_mean(stories: list[Story]) -> None:
    """Of its gender, only the meant character is named before it: here, or in the unit before."""
    for story in stories:
        genders = _genders(story)
        before: list[str] = []
        for unit in story.units:
            now: list[str] = []
            for start, end, name, _ in unit.mentions:
                if name not in genders:
                    continue
                word = story.text[start:end].lower()
                if word in GENDERS:
                    here = {n for n in now if genders[n] == GENDERS[word]}
                    there = {n for n in before if genders[n] == GENDERS[word]}
                    assert genders[name] == GENDERS[word]
                    assert (here or there) == {name}, (word, story.text[unit.start : unit.end])
                now.append(name)
            before = now


def _genders(story: Story) -> dict[str, str]:
    """The gender of each character: by the pronouns of the story, and else by the name."""
    names = {m.name for unit in story.units for m in unit.mentions if m.kind == "name"}
    her_endings = ("a", "i", "eth", "elle", "inne", "une")
    return {name: "her" if name.endswith(her_endings) else "him" for name in names}


def test_repeated_names_equal_the_earlier_ones(stories: list[Story]) -> None:
    count = 0
    for story in stories[:500]:
        for sentence in story_facts(story)["sentences"]:
            pronouns = {tuple(pronoun["span"]) for pronoun in sentence["pronouns"]}
            for determined in sentence["determined"]:
                start, end = determined["span"]
                earlier_start, earlier_end = determined["by"]
                assert earlier_end <= start
                if (start, end) not in pronouns:
                    assert story.text[start:end] == story.text[earlier_start:earlier_end]
                    count += 1
    assert count > 5000


def test_a_thing_is_with_one_character_or_lies_somewhere(stories: list[Story]) -> None:
    for story in stories:
        for sentence in story_facts(story)["sentences"]:
            held = [thing for things in sentence["holds"].values() for thing in things]
            assert len(set(held)) == len(held)
            assert not set(held) & set(sentence["lies"])


def test_who_and_what_the_facts_name_is_known_to_the_story() -> None:
    for number in range(300):
        _, tale = tell_story(Choices(9, number), record=True)
        names = {character.name for character in tale.world.characters}
        things = {thing.full for thing in tale.world.things}
        for unit in tale.units:
            for mention in unit.mentions:
                if mention.kind == "name":
                    assert mention.name in names
                    assert tale.narrator.text[mention.start : mention.end] == mention.name
            assert set(unit.state["where"]) <= names
            assert set(unit.state["lies"]) <= things


class Checked(Tale):
    """A tale that compares its world with each sentence as it is written."""

    checks = 0

    def _write(self, event: str, template: str, slots: dict[str, Slot]) -> None:
        super()._write(event, template, slots)
        slots = {**self.slots, **slots}
        for who, what in re.findall(r"gave \{(\w)\.him\} \{(\w)[.}]", template):
            if isinstance(thing := slots[what], Thing):
                assert thing.holder is slots[who], template
                self.checks += 1
        for who, where in re.findall(r"\{(\w)\} (?:was|stood|sat|waited) \{(\w)\.at\}", template):
            character = slots[who]
            assert isinstance(character, Character)
            assert character.place is slots[where], template
            self.checks += 1


def test_who_is_given_a_thing_has_it_and_who_is_somewhere_is_there() -> None:
    checks = 0
    for index, plot in enumerate(PLOTS.values()):
        for number in range(50):
            tale = Checked(Choices(8, index, number))
            plot(tale)
            checks += tale.checks
    assert checks > 200


def test_the_facts_follow_the_plot() -> None:
    """What was lost lies in the lair until it is found, and then its owner has it."""
    for number in range(2000):
        plot, tale = tell_story(Choices(9, number), record=True)
        if plot == "lost":
            break
    treasure = tale.world.things[0].full
    owner = tale.world.characters[0].name
    states = {unit.event: unit.state for unit in tale.units}
    assert states["treasure"]["holds"][owner] == [treasure]
    assert treasure in states["lost"]["lies"]
    assert states["found"]["where"][owner] == states["found"]["lies"][treasure]
    assert states["swap.food"]["holds"][owner] == [treasure]
    assert any(treasure.split()[-1] in fact for fact in states["clue"]["knows"][owner])
