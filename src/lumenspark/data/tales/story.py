"""Write stories: text, what is known about it, and the entropy of its choices."""

from typing import Any, NamedTuple

from lumenspark.data.split_names import SPLITS
from lumenspark.data.tales.choices import Choices
from lumenspark.data.tales.narrator import Unit
from lumenspark.data.tales.plots import PLOT_NAMES, PLOTS
from lumenspark.data.tales.tale import Tale


class Story(NamedTuple):
    """A story.

    Attributes:
        text: ends with a line break.
        plot: name of its plot.
        bits: information of the choices that wrote it.
        units: its sentences, where facts were asked for.
    """

    text: str
    plot: str
    bits: float
    units: list[Unit]


def write_story(seed: int, split: str, number: int, facts: bool = False) -> Story:
    """Story ``number`` of a split. The same arguments give the same text everywhere."""
    choices = Choices(seed, SPLITS.index(split), number)
    plot, tale = tell_story(choices, facts)
    return Story(tale.narrator.text + "\n", plot, choices.bits, tale.units)


def tell_story(choices: Choices, record: bool) -> tuple[str, Tale]:
    """The name of a plot and its tale, told to the end. ``record``: with what is known about it."""
    plot = choices.pick_evenly(PLOT_NAMES)
    tale = Tale(choices, record)
    PLOTS[plot](tale)
    tale.end()
    return plot, tale


def story_facts(story: Story) -> dict[str, Any]:
    """What is known about each sentence of a story written with facts. Spans are characters."""
    last: dict[str, list[int]] = {}
    sentences = []
    for unit in story.units:
        means, determined = [], []
        for start, end, name, kind in unit.mentions:
            span = [start, end]
            if kind == "pronoun":
                means.append({"span": span, "word": story.text[start:end], "means": name})
            if name in last:
                determined.append({"span": span, "by": last[name]})
            if kind != "pronoun":
                last[name] = span
        sentences.append(
            {
                "span": [unit.start, unit.end],
                "event": unit.event,
                "pronouns": means,
                "determined": determined,
                **unit.state,
            }
        )
    return {
        "plot": story.plot,
        "bits": round(story.bits, 3),
        "bytes": len(story.text.encode()),
        "sentences": sentences,
    }
