"""Generation: the cache changes nothing, and a text goes on past the end of the context.

What Lumenspark does in the same way is tested with both.
"""

from pathlib import Path

import pytest
import torch
from small_models import Model, both_families, left_padded, plain_greedy, random_rows
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    StaticCache,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

from lumenspark.models import LumiereForCausalLM


@both_families
def test_one_token_at_a_time_gives_the_logits_of_the_whole(model: Model, ids: Tensor) -> None:
    whole = model(ids).logits
    cache = model.model.new_cache()
    steps = [
        model(ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(11)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert cache.get_seq_length() == 11


@both_families
def test_the_cache_can_be_fed_several_tokens_with_padding_before_them(
    model: Model,
) -> None:
    rows = random_rows(10, 6)
    batch = left_padded(rows)
    start = model(
        batch["input_ids"][:, :7], attention_mask=batch["attention_mask"][:, :7], use_cache=True
    )
    rest = model(
        batch["input_ids"][:, 7:],
        attention_mask=batch["attention_mask"],
        past_key_values=start.past_key_values,
    )
    for index, row in enumerate(rows):
        alone = model(torch.tensor([row])).logits
        torch.testing.assert_close(rest.logits[index], alone[0, -3:], rtol=1e-4, atol=1e-4)


@both_families
def test_a_cache_that_is_full_is_an_error(model: Model) -> None:
    start = model(torch.full((1, 16), 5), use_cache=True)
    with pytest.raises(ValueError, match="17 tokens are longer than the context of 16"):
        model(torch.tensor([[5]]), past_key_values=start.past_key_values)


@both_families
def test_use_cache_false_keeps_none(model: Model, ids: Tensor) -> None:
    assert model(ids, use_cache=False).past_key_values is None
    assert model.train()(ids).past_key_values is None


CACHES = {
    "kept": {},
    "none": {"use_cache": False},
    "fixed": {"cache_implementation": "static"},
}
WAYS = [("lumiere", cache) for cache in CACHES] + [("lumenspark", "kept"), ("lumenspark", "none")]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("implementation", ["sdpa", "matmul", "eager"])
def test_greedy_text_equals_a_plain_loop_far_past_the_context(
    model: LumiereForCausalLM, cache: str, implementation: str
) -> None:
    """16 positions; rows of 1, 7 and 14 tokens fill up at different steps, again and again."""
    model.set_attn_implementation(implementation)
    rows = random_rows(14, 1, 7)
    output = model.generate(**left_padded(rows), max_new_tokens=45, **CACHES[cache])
    for row, prompt in zip(output, rows, strict=True):
        assert row.tolist()[14 - len(prompt) :] == plain_greedy(model, prompt, 45)


@pytest.mark.parametrize(("family", "cache"), WAYS)
@pytest.mark.parametrize("lengths", [(16,), (17,), (40,), (40, 16), (40, 3), (17, 40, 8, 9)])
def test_a_prompt_longer_than_the_context_starts_from_its_newest_half(
    model: Model, cache: str, lengths: tuple[int, ...]
) -> None:
    rows = random_rows(*lengths)
    output = model.generate(**left_padded(rows), max_new_tokens=12, **CACHES[cache])
    for row, prompt in zip(output, rows, strict=True):
        assert row.tolist()[max(lengths) - len(prompt) :] == plain_greedy(model, prompt, 12)


@both_families
def test_without_a_mask_nothing_is_padding(model: Model, ids: Tensor) -> None:
    output = model.generate(ids, max_new_tokens=20)
    assert output.tolist() == [plain_greedy(model, row.tolist(), 20) for row in ids]


@both_families
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_may_be_of_any_type(model: Model, dtype: torch.dtype) -> None:
    batch = left_padded(random_rows(9, 4))
    expected = model.generate(**batch, max_new_tokens=20)
    mask = batch["attention_mask"].to(dtype)
    output = model.generate(batch["input_ids"], attention_mask=mask, max_new_tokens=20)
    assert torch.equal(output, expected)


@both_families
def test_an_odd_context_keeps_the_smaller_half(model: Model) -> None:
    model.config.max_position_embeddings = 7
    prompt = random_rows(5)[0]
    output = model.generate(torch.tensor([prompt]), max_new_tokens=20)
    assert output[0].tolist() == plain_greedy(model, prompt, 20)


@both_families
def test_rows_that_have_ended_do_not_disturb_the_others(model: Model) -> None:
    rows = random_rows(14, 1, 7)
    texts = [plain_greedy(model, row, 30) for row in rows]
    end = texts[0][14 + 4]  # the first row makes this token early
    output = model.generate(**left_padded(rows), max_new_tokens=30, eos_token_id=end)
    for row, prompt, text in zip(output.tolist(), rows, texts, strict=True):
        made = text[len(prompt) :]
        made = made[: made.index(end) + 1] if end in made else made
        assert row[14 : 14 + len(made)] == made
        assert set(row[14 + len(made) :]) <= {2}


@both_families
def test_generation_while_training_is_the_same_without_dropout(model: Model, ids: Tensor) -> None:
    expected = model.generate(ids, max_new_tokens=20)
    model.config.dropout = 0.0
    assert torch.equal(model.train().generate(ids, max_new_tokens=20), expected)


@pytest.mark.parametrize(("family", "cache"), WAYS)
def test_beams(model: Model, cache: str) -> None:
    """Within the context: no worse than greedy. Past it: as many tokens as asked for."""
    batch = left_padded(random_rows(5, 2))
    arguments = {"max_new_tokens": 6, **CACHES[cache]}
    beams = model.generate(**batch, num_beams=4, **arguments)
    greedy = model.generate(**batch, **arguments)

    def nats(sequences: Tensor) -> Tensor:
        mask = torch.cat([batch["attention_mask"], torch.ones(2, 6, dtype=torch.long)], dim=1)
        log_p = model(sequences, attention_mask=mask).logits.log_softmax(-1)[:, 4:-1]
        return -log_p.gather(-1, sequences[:, 5:, None]).sum((1, 2))

    assert (nats(beams) <= nats(greedy) + 1e-4).all()
    further = model.generate(
        **batch, num_beams=3, num_return_sequences=2, **{**arguments, "max_new_tokens": 40}
    )
    assert further.shape == (4, 45)


@both_families
@torch.no_grad()
def test_beams_past_the_context_are_scored_as_the_window_sees_them(
    model: Model,
) -> None:
    """Token by token, the score of the best beam is that of a plain loop over its windows."""
    prompt = random_rows(14)[0]
    output = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=6,
        num_beams=2,
        output_scores=True,
        return_dict_in_generate=True,
    )
    log_p = 0.0
    window = prompt
    for token in output.sequences[0, 14:].tolist():
        window = window[-8:] if len(window) > 16 else window
        logits = model(torch.tensor([window])).logits[0, -1]
        log_p += float(logits.log_softmax(-1)[token])
        window = [*window, token]
    assert log_p / 6 == pytest.approx(float(output.sequences_scores[0]), abs=1e-3)


@both_families
def test_sampling_is_reproducible_by_its_seed(model: Model, ids: Tensor) -> None:
    def sample(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(
            ids, do_sample=True, top_k=0, max_new_tokens=30, num_return_sequences=2
        )

    first, again, other = sample(1), sample(1), sample(2)
    assert first.shape == (6, 41)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[:, :11], ids.repeat_interleave(2, dim=0))


def test_streamers_give_the_text_as_it_is_made(
    model: LumiereForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded = tokenizer("The lamp", return_tensors="pt", return_token_type_ids=False)
    whole = model.generate(**encoded, max_new_tokens=40)[0]
    expected = tokenizer.decode(whole, skip_special_tokens=True)

    printed = TextStreamer(tokenizer, skip_special_tokens=True)
    model.generate(**encoded, max_new_tokens=40, streamer=printed)
    assert capsys.readouterr().out == expected + "\n"

    pieces = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
    model.generate(**encoded, max_new_tokens=40, streamer=pieces)
    assert "".join(pieces) == expected


@both_families
def test_a_cache_that_was_kept_can_be_continued(model: Model) -> None:
    rows = random_rows(6, 3)
    first = model.generate(**left_padded(rows), max_new_tokens=4, return_dict_in_generate=True)
    mask = torch.cat([left_padded(rows)["attention_mask"], torch.ones(2, 4).long()], dim=1)
    again = model.generate(
        first.sequences,
        attention_mask=mask,
        past_key_values=first.past_key_values,
        max_new_tokens=5,
    )
    for row, prompt in zip(again.tolist(), rows, strict=True):
        assert row[6 - len(prompt) :] == plain_greedy(model, prompt, 9)


@both_families
def test_a_cache_that_was_kept_can_be_continued_past_the_context(
    model: Model,
) -> None:
    """13 tokens, then 7 more: full at the 17th, as without the stop."""
    prompt = random_rows(6)[0]
    first = model.generate(torch.tensor([prompt]), max_new_tokens=7, return_dict_in_generate=True)
    again = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=20
    )
    assert again[0].tolist() == plain_greedy(model, prompt, 27)


@both_families
def test_a_cache_kept_from_past_the_context_goes_on_as_a_long_prompt(
    model: Model,
) -> None:
    """What was forgotten is not known to the second call: it starts from the newest half."""
    prompt = random_rows(6)[0]
    first = model.generate(torch.tensor([prompt]), max_new_tokens=15, return_dict_in_generate=True)
    text = first.sequences[0].tolist()
    again = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=20
    )
    assert again[0].tolist() == plain_greedy(model, text, 20)


@both_families
def test_new_tokens_alone_after_a_kept_cache(model: Model) -> None:
    """A conversation: the second call is given only what was not yet read."""
    prompt, more = random_rows(6, 3)
    start = model(torch.tensor([prompt]), use_cache=True)
    again = model.generate(
        torch.tensor([more]),
        attention_mask=torch.ones(1, 9, dtype=torch.long),
        past_key_values=start.past_key_values,
        max_new_tokens=7,
    )
    assert again[0, 3:].tolist() == plain_greedy(model, prompt + more, 7)[9:]


@both_families
def test_new_tokens_alone_cannot_go_past_the_context(model: Model) -> None:
    """The tokens before them would have to be encoded again, and are not known."""
    prompt, more = random_rows(12, 3)
    start = model(torch.tensor([prompt]), use_cache=True)
    with pytest.raises(ValueError, match="context length 16: give all input_ids"):
        model.generate(
            torch.tensor([more]),
            attention_mask=torch.ones(1, 15, dtype=torch.long),
            past_key_values=start.past_key_values,
            max_new_tokens=7,
        )


def test_a_fixed_cache_of_ones_own(model: LumiereForCausalLM) -> None:
    """16 places are enough for any length, because no more than 16 tokens are ever in them."""
    prompt = random_rows(5)[0]
    cache = StaticCache(config=model.config, max_cache_len=16)
    output = model.generate(torch.tensor([prompt]), past_key_values=cache, max_new_tokens=30)
    assert output[0].tolist() == plain_greedy(model, prompt, 30)


@both_families
@pytest.mark.parametrize("masked", [False, True])
def test_a_prompt_of_embeddings(model: Model, masked: bool) -> None:
    prompt = random_rows(6)[0]
    embeddings = model.get_input_embeddings()(torch.tensor([prompt]))
    mask = {"attention_mask": torch.ones(1, 6, dtype=torch.long)} if masked else {}
    output = model.generate(inputs_embeds=embeddings, max_new_tokens=10, **mask)
    assert output[0].tolist() == plain_greedy(model, prompt, 10)[6:]


@both_families
def test_a_prompt_of_embeddings_with_padding(model: Model) -> None:
    rows = random_rows(6, 2)
    batch = left_padded(rows)
    output = model.generate(
        inputs_embeds=model.get_input_embeddings()(batch["input_ids"]),
        attention_mask=batch["attention_mask"],
        max_new_tokens=8,
    )
    for row, prompt in zip(output.tolist(), rows, strict=True):
        assert row == plain_greedy(model, prompt, 8)[len(prompt) :]


@both_families
def test_a_prompt_of_embeddings_cannot_go_past_the_context(model: Model) -> None:
    for length, new in ((6, 20), (17, 1)):
        with pytest.raises(ValueError, match="inputs_embeds cannot go past the context length 16"):
            model.generate(inputs_embeds=torch.randn(1, length, 32), max_new_tokens=new)


def test_speculation_by_prompt_lookup(model: LumiereForCausalLM) -> None:
    """Within the context it changes nothing. Past it the guesses count when a row is full."""
    prompt = random_rows(4)[0] * 2
    ids = torch.tensor([prompt])
    output = model.generate(ids, prompt_lookup_num_tokens=3, max_new_tokens=8)
    assert output[0].tolist() == plain_greedy(model, prompt, 8)
    further = model.generate(ids, prompt_lookup_num_tokens=3, max_new_tokens=50)
    assert further.shape == (1, 58)


@both_families
def test_a_prompt_read_in_chunks(model: Model) -> None:
    prompt = random_rows(12)[0]
    output = model.generate(torch.tensor([prompt]), prefill_chunk_size=5, max_new_tokens=12)
    assert output[0].tolist() == plain_greedy(model, prompt, 12)
    with pytest.raises(ValueError, match="context length 16: give all input_ids, and no prefill"):
        model.generate(torch.tensor([prompt * 2]), prefill_chunk_size=5, max_new_tokens=12)


@both_families
def test_the_pipeline_makes_its_256_tokens(
    model: Model, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generate = pipeline("text-generation", model=str(tmp_path))
    [sampled] = generate("The lamp")
    assert sampled["generated_text"].startswith("The lamp")

    prompts = ["The lamp", "Ships that come from the north see the lamp first; and then some"]
    rows = generate(prompts, batch_size=2, return_tensors=True, do_sample=False)
    for prompt, [row] in zip(prompts, rows, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert row["generated_token_ids"][-256:] == plain_greedy(model, ids, 256)[len(ids) :]
