"""Patches during generation, with and without a cache, against plain torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from inspectable import (
    DENSE,
    KINDS,
    WITH_SLOTS,
    assert_near,
    hook_count,
    low_rank_kinds,
    one_of_each_sort,
    without_head,
)
from plain_parts import plain_parts
from small_models import left_padded, random_rows
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect import add, patch, zero

PROMPT = random_rows(6)[0]
NEW = 8  # reaches the slots, and stays within the context

with_and_without_cache = pytest.mark.parametrize("use_cache", [True, False])


@dataclass
class Generated:
    """The prompt with greedy tokens, and their logits (new, V)."""

    ids: list[int]
    logits: Tensor

    def assert_equals(self, other: "Generated") -> None:
        assert self.ids == other.ids
        assert_near(self.logits, other.logits)

    def assert_differs_from(self, other: "Generated") -> None:
        """In the logits, and by more than rounding: the likeliest tokens may be the same."""
        assert float((self.logits - other.logits).abs().max()) > 1e-3


def greedy(model: Any, prompt: list[int], new: int = NEW, **options: Any) -> Generated:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return Generated(output.sequences[0].tolist(), torch.cat(output.logits))


@torch.no_grad()
def plain_greedy(
    model: Any, prompt: list[int], edits: dict[str, Callable[[Tensor], Tensor]]
) -> Generated:
    """Recomputed for each token, by plain torch."""
    text, logits = list(prompt), []
    for _ in range(NEW):
        logits.append(plain_parts(model, text, edits)["logits"][-1])
        text.append(int(logits[-1].argmax()))
    return Generated(text, torch.stack(logits))


@one_of_each_sort
@with_and_without_cache
def test_a_model_generates_as_if_a_head_had_no_weights(model: Any, use_cache: bool) -> None:
    without = without_head(without_head(model, layer=0, head=1), layer=1, head=2)
    plain = greedy(model, PROMPT, use_cache=use_cache)
    expected = greedy(without, PROMPT, use_cache=use_cache)
    for part in ("heads", "mixed"):
        edits = {f"blocks.0.attention.{part}[1]": zero, f"blocks.1.attention.{part}[2]": zero}
        with patch(model, edits):
            greedy(model, PROMPT, use_cache=use_cache).assert_equals(expected)
    expected.assert_differs_from(plain)
    assert torch.equal(greedy(model, PROMPT, use_cache=use_cache).logits, plain.logits)
    assert hook_count(model) == 0


@one_of_each_sort
@with_and_without_cache
def test_left_padded_prompts_under_a_patch(model: Any, use_cache: bool) -> None:
    batch = left_padded(random_rows(4, 7))
    options = {"max_new_tokens": NEW, "do_sample": False, "use_cache": use_cache}
    expected = without_head(model, layer=1, head=2).generate(**batch, **options)
    with patch(model, {"blocks.1.attention.heads[2]": zero}):
        assert torch.equal(model.generate(**batch, **options), expected)


@pytest.mark.parametrize("kind", ["lumiere", "content", "position", "dense"])
@with_and_without_cache
def test_a_patch_stays_when_a_text_outgrows_the_context(model: Any, use_cache: bool) -> None:
    """The newest half is then encoded again, under the patch as well."""
    expected = greedy(without_head(model, layer=1, head=2), PROMPT, new=24, use_cache=use_cache)
    with patch(model, {"blocks.1.attention.heads[2]": zero}):
        greedy(model, PROMPT, new=24, use_cache=use_cache).assert_equals(expected)


@one_of_each_sort
@with_and_without_cache
def test_steering_adds_a_vector_at_every_token(model: Any, use_cache: bool) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(2))
    expected = plain_greedy(model, PROMPT, {"blocks.0.residual": lambda stream: stream + vector})
    with patch(model, {"blocks.0.residual": add(vector)}):
        greedy(model, PROMPT, use_cache=use_cache).assert_equals(expected)
    expected.assert_differs_from(plain_greedy(model, PROMPT, {}))


@one_of_each_sort
def test_the_last_token_is_the_newest_where_there_is_a_cache(model: Any) -> None:
    """So from the prompt's last token on, each is steered once and stays so in the cache."""
    vector = torch.randn(32, generator=torch.Generator().manual_seed(2))
    last = len(PROMPT) - 1

    def steered(stream: Tensor) -> Tensor:
        return torch.cat([stream[:last], stream[last:] + vector])

    expected = plain_greedy(model, PROMPT, {"blocks.0.residual": steered})
    with patch(model, {"blocks.0.residual[-1]": add(vector)}):
        greedy(model, PROMPT).assert_equals(expected)
    expected.assert_differs_from(plain_greedy(model, PROMPT, {}))


@one_of_each_sort
def test_the_last_token_is_the_newest_alone_where_there_is_no_cache(model: Any) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(2))

    def steered(stream: Tensor) -> Tensor:
        return torch.cat([stream[:-1], stream[-1:] + vector])

    expected = plain_greedy(model, PROMPT, {"blocks.0.residual": steered})
    with patch(model, {"blocks.0.residual[-1]": add(vector)}):
        greedy(model, PROMPT, use_cache=False).assert_equals(expected)


def halved(tensor: Tensor) -> Tensor:
    return tensor / 2


def backwards(tensor: Tensor) -> Tensor:
    """Reverse the features."""
    return tensor.flip(-1)


@one_of_each_sort
@with_and_without_cache
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_what_goes_into_the_cache_is_patched(model: Any, part: str, use_cache: bool) -> None:
    edits = {f"blocks.0.attention.{part}": backwards}
    expected = plain_greedy(model, PROMPT, edits)
    with patch(model, edits):
        greedy(model, PROMPT, use_cache=use_cache).assert_equals(expected)


@pytest.mark.parametrize("kind", DENSE)
@with_and_without_cache
def test_a_dense_pattern_over_all_that_the_cache_knows(model: Any, use_cache: bool) -> None:
    """Without its first token, which a step sees by the cache alone."""

    def without_first(pattern: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(pattern[..., :1]), pattern[..., 1:]], dim=-1)

    edits = {"blocks.*.attention.pattern": without_first}
    both = {f"blocks.{layer}.attention.pattern": without_first for layer in range(2)}
    expected = plain_greedy(model, PROMPT, both)
    with patch(model, edits):
        greedy(model, PROMPT, use_cache=use_cache).assert_equals(expected)
    expected.assert_differs_from(plain_greedy(model, PROMPT, {}))


LOW_RANK_PARTS = [
    (kind, part)
    for kind in KINDS
    for part in ["pattern", "slots.write", "slots.read"]
    if kind not in DENSE and (part == "pattern" or kind in WITH_SLOTS)
]


@pytest.mark.parametrize(("kind", "part"), LOW_RANK_PARTS)
def test_low_rank_patterns_and_slots_without_a_cache(model: Any, part: str) -> None:
    edits = {f"blocks.{layer}.attention.{part}": halved for layer in range(2)}
    expected = plain_greedy(model, PROMPT, edits)
    with patch(model, {f"blocks.*.attention.{part}": halved}):
        greedy(model, PROMPT, use_cache=False).assert_equals(expected)
    expected.assert_differs_from(plain_greedy(model, PROMPT, {}))


@pytest.mark.parametrize(("kind", "part"), LOW_RANK_PARTS)
def test_low_rank_patterns_and_slots_with_a_filled_cache_are_an_error(
    model: Any, part: str
) -> None:
    """The cache does not store single tokens; the model works after the error."""
    plain = greedy(model, PROMPT)
    with (
        pytest.raises(UserError, match=r"holds earlier tokens only as sums: pass use_cache=False"),
        patch(model, {f"blocks.1.attention.{part}": zero}),
    ):
        greedy(model, PROMPT)
    assert hook_count(model) == 0
    assert torch.equal(greedy(model, PROMPT).logits, plain.logits)


@low_rank_kinds
@torch.no_grad()
def test_low_rank_patterns_where_the_cache_is_new(model: Any, ids: Tensor) -> None:
    """While a prompt fills the cache, all its tokens are available."""
    name = "blocks.1.attention.pattern"
    with patch(model, {f"{name}[2]": zero}):
        output = model(ids, use_cache=True)
        assert output.past_key_values.get_seq_length() == 11
        torch.testing.assert_close(output.logits, model(ids, use_cache=False).logits)
    expected = without_head(model, layer=1, head=2)(ids).logits
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
