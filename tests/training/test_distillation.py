"""What teachers say: sampled, learned from, and the runs in which they are trained."""

import pytest
import torch
from torch.nn import functional

from lumenspark.data.windows import TrainingWindows
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.training.distillation import sample_predictions, systematic_samples

VOCABULARY, CONTEXT = 40, 16


def model_of_strong_opinions() -> LumiereForCausalLM:
    torch.manual_seed(0)
    config = LumiereConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=CONTEXT,
        initializer_range=1.0,
        dropout=0.3,
    )
    model = LumiereForCausalLM(config)
    for block in model.model.layers:  # what starts at zero would leave the past out
        torch.nn.init.normal_(block.self_attn.o_proj.weight)
    return model.train()


def stream(length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(1))


def test_a_token_is_drawn_as_often_as_it_is_likely() -> None:
    torch.manual_seed(2)
    probabilities = (3 * torch.randn(50, 200)).softmax(-1)
    samples = systematic_samples(probabilities, 64, torch.Generator().manual_seed(0))
    counts = functional.one_hot(samples, 200).sum(1)
    assert (counts - 64 * probabilities).abs().max() < 1.001


def test_the_mean_over_many_draws_is_the_distribution() -> None:
    probabilities = torch.tensor([0.02, 0.5, 0.08, 0.4]).expand(20_000, 4)
    samples = systematic_samples(probabilities, 3, torch.Generator().manual_seed(0))
    share = functional.one_hot(samples, 4).float().mean((0, 1))
    torch.testing.assert_close(share, probabilities[0], atol=0.005, rtol=0)


@pytest.mark.parametrize("length", [CONTEXT + 1, 97, 64 * 12 + 5])
def test_answers_follow_the_model_given_what_stands_before(length: int) -> None:
    model, ids = model_of_strong_opinions(), stream(length)
    answers = torch.from_numpy(
        sample_predictions(model, ids.numpy().astype("uint16"), CONTEXT, 512, seed=0).astype(
            "int64"
        )
    )
    assert model.training
    model.eval()
    asked = CONTEXT - CONTEXT // 4
    for place in {0, 1, asked - 1, asked, length // 2, length - 1}:
        begin = place // asked * asked + asked - 1 - CONTEXT
        before = ids[torch.arange(begin, place) % length]  # the stream is a ring
        assert CONTEXT // 4 < len(before) <= CONTEXT
        with torch.no_grad():
            expected = model(input_ids=before[None]).logits[0, -1].softmax(-1)
        share = functional.one_hot(answers[place], VOCABULARY).float().mean(0)
        torch.testing.assert_close(share, expected, atol=1.01 / 512, rtol=0)


def test_positions_are_where_the_windows_come_from() -> None:
    ids = stream(200).numpy()
    windows = TrainingWindows(ids, CONTEXT, seed=5)
    positions = windows.positions(7, 20)
    assert (ids[positions] == windows.batch(7, 20)).all()
    assert ((positions[:, 1:] - positions[:, :-1]) % len(ids) == 1).all()
