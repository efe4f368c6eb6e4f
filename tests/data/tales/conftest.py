import pytest

from lumenspark.data.tales.story import Story, write_story


@pytest.fixture(scope="session")
def stories() -> list[Story]:
    """Two thousand stories with facts."""
    return [write_story(7, "train", number, facts=True) for number in range(2000)]
