"""Generation: the cache changes nothing, and a text goes on past the end of the context.

What Lumenspark does in the same way is tested with both.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    Model,
    both_families,
    fill_with_noise,
    left_padded,
    new_model,
    plain_greedy,
    random_rows,
    small_config,
)
from torch import Tensor
from transformers import (
    GenerationConfig,
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


every_family = pytest.mark.parametrize(
    ("family", "changes"), [("lumiere", {}), ("lumenspark", {}), ("lumenspark", {"k": None})]
)
SPECULATIONS = {
    "lookup": {"prompt_lookup_num_tokens": 3},
    "many guesses": {"prompt_lookup_num_tokens": 50},
    "assistant": {},
    "early exit": {"assistant_early_exit": 1},
    "exit at the end": {"assistant_early_exit": 2},
}
dense_families = pytest.mark.parametrize(
    ("family", "changes"), [("lumiere", {}), ("lumenspark", {"k": None})]
)


@dense_families
@pytest.mark.parametrize("name", SPECULATIONS)
@pytest.mark.parametrize("start", [8, 16, 17, 40])
def test_speculation_changes_no_text(model: Model, name: str, start: int) -> None:
    """Within the context of 16, across its end again and again, and from a prompt beyond it."""
    prompt = random_rows(4)[0] * (start // 4) + random_rows(4)[0][: start % 4]
    guessing = dict(SPECULATIONS[name])
    if name == "assistant":
        guessing["assistant_model"] = fill_with_noise(new_model(model.config), seed=0).eval()
    output = model.generate(torch.tensor([prompt]), max_new_tokens=50, **guessing)
    assert output[0].tolist() == plain_greedy(model, prompt, 50)


@dense_families
def test_an_assistant_of_another_mind_changes_no_text(model: Model) -> None:
    """Nearly all its guesses are wrong; it has another context, too."""
    config = small_config("lumiere", max_position_embeddings=11)
    other = fill_with_noise(new_model(config), seed=7).eval()
    prompt = random_rows(6)[0]
    output = model.generate(torch.tensor([prompt]), max_new_tokens=40, assistant_model=other)
    assert output[0].tolist() == plain_greedy(model, prompt, 40)


@dense_families
def test_speculation_gives_what_it_was_asked_for(model: Model) -> None:
    """A score and states for each token, also where guesses were cut off at the context's end."""
    prompt = random_rows(4)[0] * 2
    arguments = {"max_new_tokens": 30, "return_dict_in_generate": True, "output_scores": True}
    plain = model.generate(torch.tensor([prompt]), **arguments)
    guessed = model.generate(torch.tensor([prompt]), **arguments, prompt_lookup_num_tokens=3)
    assert torch.equal(plain.sequences, guessed.sequences)
    torch.testing.assert_close(guessed.scores, plain.scores, rtol=1e-3, atol=1e-3)


@dense_families
def test_speculative_sampling_past_the_context(model: Model) -> None:
    for guessing in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        torch.manual_seed(0)
        ids = torch.tensor([random_rows(4)[0] * 2])
        output = model.generate(ids, do_sample=True, max_new_tokens=40, **guessing)
        assert output.shape == (1, 48)


@dense_families
def test_early_exit_uses_the_first_layers_and_leaves_the_model_as_it_was(model: Model) -> None:
    prompt = random_rows(6)[0]
    expected = plain_greedy(model, prompt, 20)
    used: list[int] = []
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, index=index: used.append(index))
    model.generate(torch.tensor([prompt]), assistant_early_exit=1, max_new_tokens=20)
    assert used.count(0) > used.count(1) > 0
    assert model.config.num_hidden_layers == 2
    assert model.generate(torch.tensor([prompt]), max_new_tokens=20)[0].tolist() == expected


@dense_families
@pytest.mark.parametrize("layers", [0, -1, 3, 10**9, 1.5])
def test_early_exit_needs_a_layer_that_is_there(model: Model, layers: float) -> None:
    with pytest.raises(ValueError, match=r"assistant_early_exit is .*: it must be from 1 to 2"):
        model.generate(torch.tensor([[5]]), assistant_early_exit=layers, max_new_tokens=2)


class StopError(Exception):
    pass


@dense_families
def test_a_generation_that_failed_leaves_the_model_as_it_was(model: Model) -> None:
    """Wherever it fails: within early exit the config says that there are fewer layers."""
    prompt = random_rows(6)[0]
    expected = plain_greedy(model, prompt, 20)
    for call in range(1, 12):
        left = iter(range(call))

        def fail(*_: object, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise StopError

        hook = model.model.layers[0].register_forward_hook(fail)
        with pytest.raises(StopError):
            model.generate(torch.tensor([prompt]), assistant_early_exit=1, max_new_tokens=20)
        hook.remove()
        assert model.config.num_hidden_layers == 2
        assert model.generate(torch.tensor([prompt]), max_new_tokens=20)[0].tolist() == expected


GUIDANCE: dict[str, dict[str, Any]] = {
    "cached": {},
    "not cached": {"use_cache": False},
    "by another prompt": {"negative_prompt_ids": torch.tensor([[9, 8, 7, 6]])},
    "by one beyond the context": {"negative_prompt_ids": torch.arange(3, 30)[None]},
    "padded": {
        "negative_prompt_ids": torch.tensor([[2, 2, 8, 7]]),
        "negative_prompt_attention_mask": torch.tensor([[0, 0, 1, 1]]),
    },
}


def window(text: list[int], start: int) -> list[int]:
    """What is seen of ``text``, whose first ``start`` tokens were given at once."""
    seen = text[:start]
    for token in [None, *text[start:]]:
        seen = seen if token is None else [*seen, token]
        seen = seen[-8:] if len(seen) > 16 else seen
    return seen


@every_family
@pytest.mark.parametrize("name", GUIDANCE)
@torch.no_grad()
def test_guided_text_equals_a_plain_loop_far_past_the_context(model: Model, name: str) -> None:
    """Both texts, with the prompt and without it, are cut where they are full."""
    prompt = random_rows(6)[0]
    output = model.generate(
        torch.tensor([prompt]), guidance_scale=1.5, max_new_tokens=40, **GUIDANCE[name]
    )
    given = GUIDANCE[name].get("negative_prompt_ids")
    other = prompt[-1:] if given is None else given[0].tolist()
    other = other[2:] if name == "padded" else other
    text, start = list(prompt), len(other)
    for _ in range(40):
        guided, plain = (
            model(torch.tensor([seen])).logits[0, -1].log_softmax(-1)
            for seen in (window(text, 6), window(other, start))
        )
        token = int((plain + 1.5 * (guided - plain)).argmax())
        text, other = [*text, token], [*other, token]
    assert output[0].tolist() == text


@every_family
def test_guidance_is_the_same_with_the_cache_and_without(model: Model) -> None:
    """With beams, which change places, with several texts of a padded batch, and with lookup."""
    batch = left_padded(random_rows(6, 3))
    others = torch.tensor([[9, 8], [7, 6]])
    ways: list[dict[str, Any]] = [
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 3, "negative_prompt_ids": others},
        {"do_sample": True, "num_return_sequences": 3, "negative_prompt_ids": others},
    ]
    for way in ways:
        outputs = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            outputs.append(
                model.generate(
                    **batch, guidance_scale=1.5, max_new_tokens=20, use_cache=use_cache, **way
                )
            )
        assert torch.equal(*outputs)


@dense_families
def test_guidance_and_speculation_together(model: Model) -> None:
    ids = torch.tensor([random_rows(4)[0] * 2])
    arguments = {"guidance_scale": 1.5, "max_new_tokens": 40}
    expected = model.generate(ids, **arguments)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **arguments), expected)


@both_families
def test_guidance_needs_tokens_to_go_on_from(model: Model) -> None:
    embeddings = model.get_input_embeddings()(torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="guidance_scale needs a prompt of input_ids: give them"):
        model.generate(inputs_embeds=embeddings, guidance_scale=1.5, max_new_tokens=3)


@every_family
def test_temperature_0_takes_the_likeliest_token(model: Model) -> None:
    """Given as an argument, in a config, or saved with the model; sampling asked for or not."""
    prompt = random_rows(6)[0]
    ids, expected = torch.tensor([prompt]), plain_greedy(model, prompt, 20)
    ways: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.0, "do_sample": True, "top_k": 5, "top_p": 0.9},
        {"generation_config": GenerationConfig(temperature=0.0, do_sample=True)},
    ]
    for way in ways:
        if "generation_config" not in way:
            way["max_new_tokens"] = 20
        assert model.generate(ids, **way)[0, :26].tolist() == expected
    model.generation_config.temperature = 0.0
    model.generation_config.do_sample = True
    assert model.generate(ids, max_new_tokens=20)[0].tolist() == expected


NAN = float("nan")


@both_families
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", NAN),
        ("temperature", float("inf")),
        ("temperature", 1e-300),
        ("temperature", -1.0),
        ("temperature", "hot"),
        ("top_p", NAN),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("repetition_penalty", NAN),
        ("repetition_penalty", 1e300),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 10**12),
        ("max_new_tokens", NAN),
        ("max_length", 10**12),
        ("guidance_scale", NAN),
        ("length_penalty", NAN),
        ("min_p", NAN),
    ],
)
def test_a_setting_that_cannot_be_is_an_error(model: Model, name: str, value: object) -> None:
    arguments = {"do_sample": True, "max_new_tokens": 3} | {name: value}
    with pytest.raises(ValueError, match=f"{name} is .*: it must be "):
        model.generate(torch.tensor([[5]]), **arguments)


@both_families
def test_a_whole_number_serves_as_a_fraction(model: Model) -> None:
    for name in ("temperature", "top_p", "repetition_penalty"):
        arguments = {"do_sample": True, "max_new_tokens": 3, name: 1}
        assert model.generate(torch.tensor([[5]]), **arguments).shape == (1, 4)


@every_family
def test_a_prompt_without_tokens_or_with_half_a_mask_is_an_error(model: Model) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        model.generate(ids[:, :0], max_new_tokens=3)
    with pytest.raises(ValueError, match="the attention mask has 2 columns for 3 tokens"):
        model.generate(ids, attention_mask=torch.tensor([[0, 1]]), max_new_tokens=3)


@every_family
def test_continuous_batches_are_refused(model: Model) -> None:
    """Transformers would print the error and give back texts that end early."""
    with pytest.raises(ValueError, match="cannot generate in continuous batches"):
        model.generate(torch.tensor([[5]]), cache_implementation="paged", max_new_tokens=3)
    with pytest.raises(ValueError, match="cannot generate in continuous batches"):
        model.generate_batch([[5]])


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
