"""Head scores on constructed patterns and by counting; ablation of heads."""

import math
from typing import Any

import pytest
import torch
from inspectable import every_kind, without_head
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect import ablate_heads, entropy, head_scores, mean, patch, trace, zero
from lumenspark.inspect.heads import SCORES, repeated_tokens

LENGTH, BEGIN = 5, 1


def pattern_of(attended: Any) -> Tensor:
    """(1, 1, 11, 11): each query attends to one token, ``attended(query)``, at least the first."""
    pattern = torch.zeros(1, 1, BEGIN + 2 * LENGTH, BEGIN + 2 * LENGTH)
    for query in range(pattern.shape[2]):
        pattern[0, 0, query, max(0, attended(query))] = 1
    return pattern


@pytest.mark.parametrize(
    ("name", "attended"),
    [
        ("previous token", lambda query: query - 1),
        ("duplicate token", lambda query: query - LENGTH),
        ("induction", lambda query: query - LENGTH + 1),
        ("attention sink", lambda query: 0),
    ],
)
def test_a_head_made_for_a_score_has_all_of_it_and_others_have_none(
    name: str, attended: Any
) -> None:
    pattern = pattern_of(attended)
    assert float(SCORES[name](pattern, BEGIN, LENGTH)) == pytest.approx(1)
    for other in {"duplicate token", "induction"} - {name}:
        assert float(SCORES[other](pattern, BEGIN, LENGTH)) == 0
    assert float(SCORES["entropy"](pattern, BEGIN, LENGTH)) == pytest.approx(0)


@every_kind
def test_scores_are_means_over_the_patterns_entries(model: Any) -> None:
    scored = head_scores(model, rows=3, length=6)
    ids, begin, length = repeated_tokens(model, rows=3, length=6)
    pattern = trace(model, ids, ["blocks.1.attention.pattern"])["blocks.1.attention.pattern"]
    second = range(begin + length, ids.shape[1])
    for head in range(4):
        rows = pattern[:, head].tolist()
        counted = {
            "previous token": [row[t][t - 1] for row in rows for t in range(1, ids.shape[1])],
            "duplicate token": [row[t][t - length] for row in rows for t in second],
            "induction": [row[t][t - length + 1] for row in rows for t in second],
            "attention sink": [row[t][0] for row in rows for t in range(1, ids.shape[1])],
            "entropy": [
                -sum(p * math.log(p) for p in row[t] if p > 0)
                for row in rows
                for t in range(ids.shape[1])
            ],
        }
        for name, values in counted.items():
            expected = sum(values) / len(values)
            assert float(scored.scores[name][1, head]) == pytest.approx(expected, abs=1e-5), name


def test_rows_are_random_tokens_said_twice_after_the_beginning(model: Any) -> None:
    ids, begin, length = repeated_tokens(model, rows=4)
    assert (begin, length) == (1, 7)  # a context of 16
    assert (ids[:, 0] == model.config.bos_token_id).all()
    first, second = ids[:, 1:8], ids[:, 8:]
    assert torch.equal(first, second)
    assert not torch.isin(first, torch.tensor([0, 2])).any()  # beginning and padding
    assert len(first.unique(dim=0)) == 4
    assert torch.equal(ids, repeated_tokens(model, rows=4)[0])
    assert not torch.equal(ids, repeated_tokens(model, rows=4, seed=1)[0])


def test_losses_are_of_the_random_tokens_and_of_their_repetition(model: Any) -> None:
    scored = head_scores(model, rows=2)
    losses = trace(model, repeated_tokens(model, rows=2)[0]).loss
    assert scored.first_loss == pytest.approx(float(losses[:, 1:8].mean()))
    assert scored.second_loss == pytest.approx(float(losses[:, 8:].mean()))


@pytest.mark.parametrize("length", [1, 8])
def test_rows_that_do_not_fit_are_an_error(model: Any, length: int) -> None:
    with pytest.raises(UserError, match="choose from 2 to 7 for a context of 16"):
        head_scores(model, length=length)


def test_the_strongest_head_and_the_table(model: Any) -> None:
    scored = head_scores(model)
    layer, head = scored.strongest("induction")
    assert scored.scores["induction"][layer, head] == scored.scores["induction"].max()
    lines = str(scored).splitlines()
    assert len(lines) == 1 + 2 * 4
    assert lines[-1].split()[0] == "1.3"
    assert float(lines[-1].split()[3]) == pytest.approx(
        float(scored.scores["induction"][1, 3]), abs=6e-4
    )


def test_entropy_of_even_and_of_single_attention() -> None:
    even, single = torch.full((1, 1, 1, 8), 1 / 8), torch.eye(8)[None, None]
    assert float(entropy(even)) == pytest.approx(math.log(8))
    assert entropy(single).abs().max() == 0


@every_kind
def test_a_heads_worth_is_the_loss_without_its_weights(model: Any, ids: Tensor) -> None:
    costs = ablate_heads(model, ids)
    assert costs.shape == (2, 4)
    whole = trace(model, ids).mean_loss
    for layer, head in ((0, 0), (1, 2)):
        crippled = trace(without_head(model, layer, head), ids).mean_loss
        assert float(costs[layer, head]) == pytest.approx(crippled - whole, abs=1e-4)


def test_heads_can_be_ablated_by_their_mean(model: Any, ids: Tensor) -> None:
    with patch(model, {"blocks.1.attention.heads[3]": mean}):
        averaged = trace(model, ids).mean_loss
    expected = averaged - trace(model, ids).mean_loss
    assert float(ablate_heads(model, ids, mean)[1, 3]) == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_some_tokens_alone(model: Any, ids: Tensor) -> None:
    late = slice(-5, None)
    with patch(model, {"blocks.0.attention.heads[1]": zero}):
        without = trace(model, ids).loss[:, -5:].mean()
    expected = float(without - trace(model, ids).loss[:, -5:].mean())
    cost = float(ablate_heads(model, ids, positions=late)[0, 1])
    assert cost == pytest.approx(expected, abs=1e-6)


def test_several_end_tokens(model: Any) -> None:
    model.config.eos_token_id = [5, 6]
    ids, _, _ = repeated_tokens(model, rows=200)
    assert not torch.isin(ids[:, 1:], torch.tensor([0, 2, 5, 6])).any()


def test_padded_rows_are_ablated_with_their_mask(model: Any, padded: dict[str, Tensor]) -> None:
    ids, mask = padded["input_ids"], padded["attention_mask"]
    costs = ablate_heads(model, ids, attention_mask=mask)
    crippled = trace(without_head(model, 1, 2), ids, attention_mask=mask).mean_loss
    whole = trace(model, ids, attention_mask=mask).mean_loss
    assert float(costs[1, 2]) == pytest.approx(crippled - whole, abs=1e-4)
