"""Lumenspark's decode state: its size is constant, and it changes nothing that is generated.

What it shares with Lumiére is tested in ``test_lumiere_generation.py``, with both.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import (
    both_families,
    every_attention,
    fill_with_noise,
    left_padded,
    low_rank_attention,
    new_model,
    plain_greedy,
    random_rows,
    small_config,
)
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, StaticCache

from lumenspark.models import LumensparkCache, LumensparkForCausalLM


@pytest.fixture
def family() -> str:
    return "lumenspark"


def held_bytes(cache: LumensparkCache) -> int:
    """Of whole storages, so that a view of something larger would show."""
    states = [layer.state for layer in cache.layers]
    return sum(
        tensor.untyped_storage().nbytes()
        for state in states
        for tensor in (state.recent, state.slots, state.weight, state.count)
    )


@low_rank_attention
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_state_has_the_same_size_from_the_first_token_on(
    model: LumensparkForCausalLM, dtype: torch.dtype
) -> None:
    """k·(2D + 1) + 2·window·2D numbers a head (the slots in float32), and a count for each row."""
    model.to(dtype)
    config = model.config
    slots = config.k * (2 * config.head_dim + 1) * 4
    recent = 2 * config.window * 2 * config.head_dim * dtype.itemsize
    expected = config.depth * 3 * (config.heads * (slots + recent) + 8)
    ids = torch.tensor(random_rows(16, 16, 16))
    cache = model.model.new_cache()
    assert cache.nbytes == 0
    for t in range(16):
        model(ids[:, t : t + 1], past_key_values=cache)
        assert cache.nbytes == held_bytes(cache) == expected
    for length in (1, 5, 16):
        cache = model(ids[:, :length], use_cache=True).past_key_values
        assert isinstance(cache, LumensparkCache)
        assert cache.nbytes == held_bytes(cache) == expected
        assert cache.get_seq_length() == length


@every_attention
@pytest.mark.parametrize(
    "lengths", [(1,) * 16, (16,), (1, 15), (15, 1), (5, 1, 1, 7, 2), (3, 3, 3, 3, 3, 1), (4, 12)]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_text_read_in_pieces_gives_the_logits_of_the_whole(
    model: LumensparkForCausalLM, lengths: tuple[int, ...], training: bool
) -> None:
    """A batch with padding on the left, with gradients (where no tensor may change) and without."""
    rows = random_rows(16, 9, 1)
    batch = left_padded(rows)
    cache, pieces = model.model.new_cache(), []
    with torch.set_grad_enabled(training):
        for piece in batch["input_ids"].split(lengths, dim=1):
            mask = batch["attention_mask"][:, : cache.get_seq_length() + piece.shape[1]]
            output = model(piece, attention_mask=mask, past_key_values=cache)
            assert output.past_key_values is cache
            pieces.append(output.logits)
    logits = torch.cat(pieces, dim=1)
    for index, row in enumerate(rows):
        alone = model(torch.tensor([row]), use_cache=False).logits[0]
        torch.testing.assert_close(logits[index, -len(row) :], alone, rtol=1e-4, atol=1e-4)
    if training:
        logits[batch["attention_mask"].bool()].square().sum().backward()
        assert all(weight.grad.isfinite().all() for weight in model.parameters())


@every_attention
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_equals_a_plain_loop_far_past_the_context(
    model: LumensparkForCausalLM, use_cache: bool
) -> None:
    """16 positions; rows of 1, 7 and 14 tokens fill up at different steps, again and again."""
    rows = random_rows(14, 1, 7)
    output = model.generate(**left_padded(rows), max_new_tokens=45, use_cache=use_cache)
    for row, prompt in zip(output, rows, strict=True):
        assert row.tolist()[14 - len(prompt) :] == plain_greedy(model, prompt, 45)


@every_attention
@pytest.mark.parametrize("new", [8, 30])
def test_beams_are_the_same_with_the_cache_and_without(
    model: LumensparkForCausalLM, new: int
) -> None:
    """Within the context and past it, with padding, and all of them returned."""
    batch = left_padded(random_rows(5, 2))
    arguments = {
        "num_beams": 4,
        "num_return_sequences": 4,
        "max_new_tokens": new,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    kept = model.generate(**batch, **arguments)
    anew = model.generate(**batch, **arguments, use_cache=False)
    assert kept.sequences.shape == (8, 5 + new)
    assert torch.equal(kept.sequences, anew.sequences)
    torch.testing.assert_close(kept.sequences_scores, anew.sequences_scores, rtol=1e-4, atol=1e-4)
    assert len({tuple(row.tolist()) for row in kept.sequences}) == 8


def test_sampling_several_sequences_is_the_same_with_the_cache_and_without(
    model: LumensparkForCausalLM,
) -> None:
    batch = left_padded(random_rows(5, 2))
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        arguments = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 20}
        outputs.append(model.generate(**batch, **arguments, use_cache=use_cache))
    assert outputs[0].shape == (6, 25)
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0][0], outputs[0][1])


@pytest.mark.parametrize("chunk", [1, 4, 5, 11, 100])
def test_a_padded_prompt_read_in_chunks(model: LumensparkForCausalLM, chunk: int) -> None:
    rows = random_rows(11, 6)
    output = model.generate(**left_padded(rows), prefill_chunk_size=chunk, max_new_tokens=20)
    for row, prompt in zip(output, rows, strict=True):
        assert row.tolist()[11 - len(prompt) :] == plain_greedy(model, prompt, 20)


@low_rank_attention
def test_a_conversation_goes_on_from_a_cache_of_ones_own(model: LumensparkForCausalLM) -> None:
    """Prompt, answer, another prompt, another answer; with padding before the shorter one."""
    rows, more = random_rows(5, 2), random_rows(3, 3)
    batch = left_padded(rows)
    cache = model.model.new_cache()
    answer = model.generate(**batch, past_key_values=cache, max_new_tokens=4)
    assert cache.get_seq_length() == 8  # all but the newest token
    ids = torch.cat([answer, torch.tensor(more)], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 7).long()], dim=1)
    output = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=4)
    for index, prompt in enumerate(rows):
        text = plain_greedy(model, plain_greedy(model, prompt, 4) + more[index], 4)
        assert output[index].tolist()[5 - len(prompt) :] == text


@low_rank_attention
@torch.no_grad()
def test_guesses_can_be_undone(model: LumensparkForCausalLM) -> None:
    """One after the other, read at once or token by token, from the same snapshot."""
    batch = left_padded(random_rows(16, 12))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = model(ids, attention_mask=mask).logits
    cache = model.model.new_cache()
    model(ids[:, :7], attention_mask=mask[:, :7], past_key_values=cache)
    snapshot = cache.snapshot()
    for length, pieces in ((1, 1), (6, 1), (6, 6), (9, 9)):
        guess = torch.randint(3, 300, (2, length), generator=torch.Generator().manual_seed(length))
        for piece in guess.chunk(pieces, dim=1):
            model(piece, past_key_values=cache)
        assert cache.get_seq_length() == 7 + length
        cache.restore(snapshot)
        assert cache.get_seq_length() == 7
    logits = model(ids[:, 7:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(logits, expected[:, 7:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_snapshots_of_several_moments(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """Restored in any order, the one before the first token too."""
    cache = model.model.new_cache()
    snapshots, logits = [], []
    for t in range(11):
        snapshots.append(cache.snapshot())
        logits.append(model(ids[:, t : t + 1], past_key_values=cache).logits)
    for t in (3, 0, 10, 5):
        cache.restore(snapshots[t])
        assert cache.get_seq_length() == t
        assert torch.equal(model(ids[:, t : t + 1], past_key_values=cache).logits, logits[t])


@low_rank_attention
@torch.no_grad()
def test_speculation_with_snapshots_equals_greedy_text(model: LumensparkForCausalLM) -> None:
    """What a guesser would do: read three guesses, keep what the model agrees with, undo the rest.

    Every second guess is right, so there is something of both.
    """
    prompt = random_rows(4)[0]
    expected = plain_greedy(model, prompt, 10)
    cache = model.model.new_cache()
    model(torch.tensor([prompt[:-1]]), past_key_values=cache)
    text = list(prompt)
    while len(text) < len(expected):
        snapshot = cache.snapshot()
        guess = expected[len(text) : len(text) + 3]
        guess[-1] = 299 - guess[-1]
        fed = torch.tensor([[text[-1], *guess]])
        chosen = model(fed, past_key_values=cache).logits[0].argmax(-1).tolist()
        right = next((i for i, token in enumerate(guess) if token != chosen[i]), len(guess))
        cache.restore(snapshot)
        model(fed[:, : right + 1], past_key_values=cache)
        text += chosen[: right + 1]
    assert text[: len(expected)] == expected


def test_a_cache_filled_in_inference_mode_can_be_continued_outside_of_it(
    model: LumensparkForCausalLM,
) -> None:
    """Whose tensors may then not be changed in place."""
    prompt = random_rows(6)[0]
    with torch.inference_mode():
        cache = model(torch.tensor([prompt]), use_cache=True).past_key_values
    text = plain_greedy(model, prompt, 1)
    output = model.generate(torch.tensor([text]), past_key_values=cache, max_new_tokens=5)
    assert output[0].tolist() == plain_greedy(model, text, 5)


def select(*rows: int) -> tuple[Callable[[LumensparkCache], None], list[int]]:
    return lambda cache: cache.batch_select_indices(torch.tensor(rows)), list(rows)


CHANGES_OF_ROWS: dict[str, tuple[Callable[[LumensparkCache], None], list[int]]] = {
    "reordered": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "one chosen": select(1),
    "two chosen": select(2, 0),
}


@low_rank_attention
@pytest.mark.parametrize("name", CHANGES_OF_ROWS)
@torch.no_grad()
def test_rows_of_the_cache_can_be_changed(model: LumensparkForCausalLM, name: str) -> None:
    """Each row goes on as its text does, and what one writes the other does not read."""
    change, chosen = CHANGES_OF_ROWS[name]
    rows = random_rows(9, 6, 3)
    batch = left_padded(rows)
    cache = model.model.new_cache()
    change(cache)  # nothing to change yet
    assert cache.get_seq_length() == 0
    model(**batch, past_key_values=cache)
    change(cache)
    assert cache.get_seq_length() == 9
    more = [row[:5] for row in random_rows(*[7] * (len(chosen) + 1))[1:]]
    mask = torch.cat([batch["attention_mask"][chosen], torch.ones(len(chosen), 5).long()], dim=1)
    steps = [
        model(
            torch.tensor([[row[t]] for row in more]),
            attention_mask=mask[:, : 10 + t],
            past_key_values=cache,
        ).logits
        for t in range(5)
    ]
    logits = torch.cat(steps, dim=1)
    for index, row in enumerate(chosen):
        text = torch.tensor([rows[row] + more[index]])
        expected = model(text, use_cache=False).logits[0, -5:]
        torch.testing.assert_close(logits[index], expected, rtol=1e-4, atol=1e-4)


def test_a_cache_that_was_reset_knows_nothing(model: LumensparkForCausalLM, ids: Tensor) -> None:
    cache = model(ids, use_cache=True).past_key_values
    cache.reset()
    assert (cache.get_seq_length(), cache.nbytes) == (0, 0)
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_no_token_can_be_taken_out_of_the_state(model: LumensparkForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits[:, 6:]
    cache = model(ids[:, :6], use_cache=True).past_key_values
    assert not cache.is_croppable
    cache.crop(0)
    for count in (1, 6):
        with pytest.raises(ValueError, match=r"take a snapshot\(\) before them, and restore\(\)"):
            cache.crop(count)
    logits = model(ids[:, 6:], past_key_values=cache).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_there_are_no_keys_and_values_to_add_to(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """Neither by hand nor by dense attention."""
    tokens = torch.zeros(1, 4, 1, 8)
    with pytest.raises(TypeError, match="has no list of keys and values to append to"):
        model.model.new_cache().update(tokens, tokens, 0)
    dense = new_model(small_config("lumenspark", k=None))
    with pytest.raises(TypeError, match="has no list of keys and values to append to"):
        dense(ids, past_key_values=LumensparkCache(2), use_cache=True)


@both_families
def test_a_mask_that_leaves_out_what_the_cache_knows_is_an_error(family: str, ids: Tensor) -> None:
    model = new_model(small_config(family)).eval()
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="it must cover the cached ones too"):
        model(ids[:, :1], past_key_values=cache, attention_mask=torch.ones_like(ids[:, :1]))


def test_a_cache_of_another_kind_is_an_error(model: LumensparkForCausalLM, ids: Tensor) -> None:
    for cache in (DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=16)):
        sentence = f"a LumensparkCache, not in a {type(cache).__name__}: use model.model.new_cache"
        with pytest.raises(ValueError, match=sentence):
            model(ids, past_key_values=cache)
        with pytest.raises(ValueError, match=sentence):
            model.generate(ids, past_key_values=cache, max_new_tokens=2)


def test_the_cache_that_grows_is_the_models_own(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """Transformers' name for what a model uses unless told otherwise."""
    arguments = {"max_new_tokens": 20, "return_dict_in_generate": True}
    output = model.generate(ids, cache_implementation="dynamic", **arguments)
    assert isinstance(output.past_key_values, LumensparkCache)
    assert torch.equal(output.sequences, model.generate(ids, **arguments).sequences)


def test_another_implementation_of_the_cache_cannot_be_chosen(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    for name in ("static", "quantized", "offloaded"):
        with pytest.raises(ValueError, match=f"cache_implementation='{name}': low-rank attention"):
            model.generate(ids, cache_implementation=name, max_new_tokens=2)
    dense = new_model(small_config("lumenspark", k=None)).eval()
    assert dense.generate(ids, cache_implementation="static", max_new_tokens=2).shape == (3, 13)


def test_the_weights_on_tokens_in_the_cache_cannot_be_given(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    cache = model.model.new_cache()
    assert model(ids[:, :6], past_key_values=cache, output_attentions=True).attentions is not None
    sentence = "only in the cache cannot be computed: give the whole text, or use_cache=Fal"
    with pytest.raises(ValueError, match=sentence):
        model(ids[:, 6:], past_key_values=cache, output_attentions=True)
    arguments = {"output_attentions": True, "return_dict_in_generate": True, "max_new_tokens": 8}
    with pytest.raises(ValueError, match=sentence):
        model.generate(ids, **arguments)
    output = model.generate(ids, **arguments, use_cache=False)
    shapes = [weights[0].shape for weights in output.attentions]
    assert shapes[:6] == [(3, 4, n, n) for n in range(11, 17)]
    assert shapes[6:] == [(3, 4, 8, 8), (3, 4, 9, 9)]  # the context was full: 8 tokens anew


def test_transformers_cannot_guess_ahead(model: LumensparkForCausalLM, ids: Tensor) -> None:
    """It would have to take its wrong guesses out of the state again."""
    sentence = "not supported with stateful models"
    with pytest.raises(ValueError, match=sentence):
        model.generate(ids[:1], prompt_lookup_num_tokens=3, max_new_tokens=8)
    with pytest.raises(ValueError, match=sentence):
        model.generate(ids[:1], assistant_model=model, max_new_tokens=8)
    with pytest.raises(ValueError, match=sentence):
        model.generate(ids[:1], assistant_early_exit=1, max_new_tokens=8)
    assert model.config.num_hidden_layers == 2


def test_a_model_with_low_rank_attention_is_no_assistant(
    model: LumensparkForCausalLM, ids: Tensor
) -> None:
    """Wrong guesses would have to be taken out of its state."""
    dense = new_model(small_config("lumenspark", k=None)).eval()
    with pytest.raises(ValueError, match="cannot be the assistant of another"):
        dense.generate(ids[:1], assistant_model=model, max_new_tokens=8)


class PeakMemory(TorchDispatchMode):
    """The most bytes that the tensors made inside it held at any one time, weights left out."""

    def __init__(self, model: LumensparkForCausalLM) -> None:
        super().__init__()
        self.peak = 0
        self._weights = {StorageWeakRef(weight.untyped_storage()) for weight in model.parameters()}
        self._held: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._held[StorageWeakRef(storage)] = storage.nbytes()
        self._held = {
            storage: size
            for storage, size in self._held.items()
            if not storage.expired() and storage not in self._weights
        }
        self.peak = max(self.peak, sum(self._held.values()))
        return output


@low_rank_attention
def test_a_long_prompt_read_in_chunks_takes_the_memory_of_a_chunk(changes: dict[str, Any]) -> None:
    """And beside it the ids, mask and positions of all tokens: a few integers each."""
    config = small_config("lumenspark", **{"k": 16} | changes, window=64, seq_length=16_384)
    model = fill_with_noise(new_model(config)).eval()

    def peak(tokens: int, **arguments: int) -> int:
        noise = torch.Generator().manual_seed(0)
        ids = torch.randint(3, 300, (1, tokens), generator=noise)
        with PeakMemory(model) as memory:
            assert model.generate(ids, max_new_tokens=2, **arguments).shape == (1, tokens + 2)
        return memory.peak

    in_chunks = peak(16_360, prefill_chunk_size=512)
    assert in_chunks < peak(512) + 16_360 * 4 * 8
    assert in_chunks < peak(16_360) / 5


@torch.no_grad()
def test_a_step_takes_the_same_memory_wherever_it_is() -> None:
    config = small_config("lumenspark", k=16, window=64, seq_length=16_384)
    model = fill_with_noise(new_model(config)).eval()
    cache = model.model.new_cache()
    peaks = []
    for length in (1_000, 15_000):
        ids = torch.randint(3, 300, (1, length - cache.get_seq_length()))
        for piece in ids.split(512, dim=1):
            model(piece, past_key_values=cache)
        with PeakMemory(model) as memory:
            model(torch.tensor([[5]]), past_key_values=cache)
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1]
