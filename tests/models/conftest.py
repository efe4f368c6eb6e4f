"""What the tests of models/ share: a little text, its tokenizer, and a model of two blocks."""

from typing import Any

import pytest
import torch
from small_models import Config, Model, fill_with_noise, new_model, small_config
from transformers import PreTrainedTokenizerFast

from lumenspark.data.tokenizer import to_transformers, train_tokenizer

TEXT = """The lighthouse stands on the last rock of the coast, and its lamp is lit at dusk. In fog
the keeper rings a bell as well, because light does not carry through fog. Ships that come from the
north see the lamp first; ships that come from the south hear the bell. On clear nights one can
count the fishing boats between the rock and the harbour, and tell by their lights who is late.
"""


@pytest.fixture(scope="session")
def text() -> str:
    return TEXT


@pytest.fixture(scope="session")
def tokenizer(text: str) -> PreTrainedTokenizerFast:
    return to_transformers(train_tokenizer([text], 300))


@pytest.fixture
def family() -> str:
    """Whose config and model a test gets, unless it is parametrized with this name."""
    return "lumiere"


@pytest.fixture
def changes() -> dict[str, Any]:
    """What in their config is otherwise than in ``small_config``, likewise."""
    return {}


@pytest.fixture
def config(family: str, changes: dict[str, Any]) -> Config:
    return small_config(family, **changes)


@pytest.fixture
def model(config: Config) -> Model:
    """In evaluation mode, with noise for weights."""
    return fill_with_noise(new_model(config)).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    """(3, 11) token ids, none of them special."""
    return torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(5))
