"""Shared fixtures: a small model of each kind, and rows of tokens."""

from typing import Any

import pytest
import torch
from inspectable import make_model
from small_models import left_padded, random_rows
from torch import Tensor


@pytest.fixture
def kind() -> str:
    """The kind of ``model``, unless a test parametrizes it."""
    return "lumiere"


@pytest.fixture
def model(kind: str) -> Any:
    """In evaluation mode, with random weights."""
    return make_model(kind)


@pytest.fixture
def ids() -> Tensor:
    """(2, 11) token ids, none of them special."""
    return torch.tensor(random_rows(11, 11))


@pytest.fixture
def rows() -> list[list[int]]:
    """Rows of 7 and of 11 token ids."""
    return random_rows(7, 11)


@pytest.fixture
def padded(rows: list[list[int]]) -> dict[str, Tensor]:
    """``rows`` as one batch: ``input_ids`` and ``attention_mask``, both (2, 11)."""
    return left_padded(rows)
