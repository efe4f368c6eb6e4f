"""The places of the stories, each with sentences that are true of it (``places.txt``)."""

from lumenspark.data.tales.sections import cells, sections
from lumenspark.data.tales.world import Place

_TABLES = sections("places.txt")


def _places(section: str) -> tuple[Place, ...]:
    rows = [cells(line) for line in _TABLES[section]]
    return tuple(Place(noun, at, section == "outdoors", tuple(rest)) for noun, at, *rest in rows)


OUTDOORS = _places("outdoors")
INDOORS = _places("indoors")
HOMES = _places("homes")
PLACES = {place.noun: place for place in OUTDOORS + INDOORS}
