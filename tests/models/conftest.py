"""What the tests of models/ share: a little text, its tokenizer, and a Lumiére of two blocks."""

import pytest
import torch
from plain_lumiere import fill_with_noise
from transformers import PreTrainedTokenizerFast

from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.models import LumiereConfig, LumiereForCausalLM

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
def config() -> LumiereConfig:
    """16 positions; no end token, so that generation makes as many tokens as it was asked for."""
    return LumiereConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        eos_token_id=None,
    )


@pytest.fixture
def model(config: LumiereConfig) -> LumiereForCausalLM:
    """In evaluation mode, with noise for weights: a fresh model's zeros would hide mistakes."""
    return fill_with_noise(LumiereForCausalLM(config)).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    """(3, 11) token ids, none of them special."""
    return torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(5))
