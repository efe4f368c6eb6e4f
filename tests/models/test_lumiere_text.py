"""``model.generate(text=…)``: a string in, a string out."""

from pathlib import Path

import pytest
import torch
from small_models import Model, both_families, plain_greedy
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

import lumenspark
from lumenspark.models import LumiereForCausalLM


@pytest.fixture
def folder(model: Model, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def expected_text(model: Model, tokenizer: PreTrainedTokenizerFast, prompt: str, new: int) -> str:
    ids = plain_greedy(model, tokenizer(prompt)["input_ids"], new)
    return tokenizer.decode(ids, skip_special_tokens=True)


@both_families
def test_a_string_gives_a_string_and_a_list_a_list(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The tokenizer is the one beside the weights. Longer texts and shorter go in one batch."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = ["The lamp", "On clear nights one can count the fishing boats.", "S"]
    expected = [expected_text(model, tokenizer, prompt, 30) for prompt in prompts]
    assert model.generate(text=prompts[0], max_new_tokens=30) == expected[0]
    assert model.generate(text=prompts, max_new_tokens=30) == expected
    assert model.generate(text=prompts[:1], max_new_tokens=30) == expected[:1]


@both_families
def test_the_first_argument_may_be_the_text(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The tokenizer is the one beside the weights, after ``lumenspark.load`` too."""
    prompts = ["The lamp", "Ships that come from the south"]
    for model in (AutoModelForCausalLM.from_pretrained(folder), lumenspark.load(str(folder))[0]):
        expected = [expected_text(model, tokenizer, prompt, 30) for prompt in prompts]
        assert model.generate(prompts[0], max_new_tokens=30) == expected[0]
        assert model.generate(prompts, max_new_tokens=30) == expected
        assert model.generate(tuple(prompts), max_new_tokens=30) == expected
        settings = GenerationConfig(max_new_tokens=30)
        assert model.generate(inputs=prompts[0], generation_config=settings) == expected[0]
        assert model.generate(prompts[0], settings) == expected[0]
    torch.manual_seed(0)
    sampled = model.generate(prompts, max_new_tokens=30, temperature=0.9, num_return_sequences=2)
    torch.manual_seed(0)
    assert sampled == model.generate(
        text=prompts, max_new_tokens=30, temperature=0.9, num_return_sequences=2
    )


def test_a_first_argument_that_is_neither_ids_nor_text_is_an_error(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor
) -> None:
    encoded = tokenizer("The lamp", return_tensors="pt")
    for first, arguments, message in (
        ([3, 4], {}, "a prompt is a int: it must be a string"),
        ([], {}, "a prompt has no tokens"),
        (7, {}, "a prompt is a int: it must be a string, or a list of them"),
        (encoded, {}, r"a BatchEncoding: write generate\(\*\*inputs\)"),
        ("The lamp", {"text": "Ships"}, "give either text or inputs, not both"),
        (ids, {"text": "Ships"}, "give either text or input_ids, not both"),
        ("The lamp", {"input_ids": ids}, "give either text or input_ids, not both"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(first, tokenizer=tokenizer, **arguments)
    with pytest.raises(ValueError, match="not loaded from a folder, so pass tokenizer="):
        model.generate("The lamp")


def test_the_text_starts_with_the_prompt_as_it_was_given(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Also where the tokenizer's NFKC writes it otherwise."""
    for prompt in ("The ﬁsh’s  ½ \n lamp ", " leading space", "日本語 ☃", "e\u0301te\u0301"):
        text = model.generate(text=prompt, tokenizer=tokenizer, max_new_tokens=12)
        assert text.startswith(prompt)
        normal = expected_text(model, tokenizer, prompt, 12)
        read = tokenizer.decode(tokenizer(prompt)["input_ids"], skip_special_tokens=True)
        assert text == prompt + normal[len(read) :]


def test_without_a_limit_20_new_tokens_are_made_whatever_the_length_of_the_prompt(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    for prompt in ("The lamp", text):
        expected = plain_greedy(model, tokenizer(prompt)["input_ids"], 20)
        ids = torch.tensor([expected[:-20]])
        assert model.generate(ids)[0].tolist() == expected
        assert model.generate(text=prompt, tokenizer=tokenizer) == tokenizer.decode(
            expected, skip_special_tokens=True
        )


def test_a_tokenizer_can_be_given(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert model.generate(text="The lamp", tokenizer=tokenizer, max_new_tokens=9) == expected_text(
        model, tokenizer, "The lamp", 9
    )


def test_without_a_tokenizer_the_error_says_what_to_give(
    model: LumiereForCausalLM, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="not loaded from a folder, so pass tokenizer="):
        model.generate(text="The lamp")
    model.save_pretrained(tmp_path)
    loaded = LumiereForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"none was found in '{tmp_path}', so pass tokenizer="):
        loaded.generate(text="The lamp")


def test_a_tokenizer_that_is_damaged_is_an_error(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for content in ("{", "[]", '{"model": 3}', ""):
        (tmp_path / "tokenizer.json").write_text(content)
        loaded = LumiereForCausalLM.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"needs a tokenizer: .* so pass tokenizer="):
            loaded.generate(text="The lamp")


def test_text_and_ids_together_are_an_error(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = torch.tensor([[5]])
    with pytest.raises(ValueError, match="either text or input_ids"):
        model.generate(text="The lamp", input_ids=ids, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="either text or input_ids"):
        model.generate(ids, text="The lamp", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="either text or attention_mask"):
        model.generate(text="The lamp", attention_mask=ids, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="either text or inputs_embeds"):
        model.generate(text="The lamp", inputs_embeds=torch.zeros(1, 1, 32), tokenizer=tokenizer)


def test_an_empty_prompt(model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """With a beginning token there is something to go on from; without one there is not."""
    assert model.generate(text="", tokenizer=tokenizer, max_new_tokens=5) == expected_text(
        model, tokenizer, "", 5
    )
    words = Tokenizer(models.WordLevel({"lamp": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=words)
    assert model.generate(text="lamp", tokenizer=bare, max_new_tokens=2).startswith("lamp")
    for text in ("", ["lamp", ""], []):
        with pytest.raises(ValueError, match="a prompt has no tokens: give at least one word"):
            model.generate(text=text, tokenizer=bare)


@pytest.mark.parametrize(
    "argument", [{"temperature": 0.9}, {"top_k": 40}, {"top_p": 0.95}, {"min_p": 0.01}]
)
def test_a_sampling_argument_means_sampling(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast, argument: dict[str, float]
) -> None:
    def texts(**arguments: object) -> set[str]:
        return {
            model.generate(text="The", tokenizer=tokenizer, max_new_tokens=8, **arguments)
            for _ in range(3)
        }

    assert len(texts(**argument)) > 1
    assert texts(**argument, do_sample=False) == texts()
    torch.manual_seed(4)
    first = texts(**argument)
    torch.manual_seed(4)
    assert texts(**argument) == first


def test_temperature_0_is_no_sampling(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """As on the command line."""
    arguments = {"text": "The", "tokenizer": tokenizer, "max_new_tokens": 8}
    expected = model.generate(**arguments)
    for way in ({}, {"do_sample": True}, {"top_k": 3, "top_p": 0.5, "do_sample": True}):
        assert model.generate(**arguments, temperature=0, **way) == expected
    saved = GenerationConfig(temperature=0.0, do_sample=True, max_new_tokens=8)
    assert model.generate(text="The", tokenizer=tokenizer, generation_config=saved) == expected


def test_several_texts_of_each_prompt(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    arguments = {"tokenizer": tokenizer, "max_new_tokens": 8, "temperature": 1.5}
    texts = model.generate(text="The lamp", num_return_sequences=3, **arguments)
    assert len(texts) == len(set(texts)) == 3
    assert all(text.startswith("The lamp") for text in texts)
    texts = model.generate(text=["The lamp", "A"], num_return_sequences=2, **arguments)
    assert [text.startswith("The lamp") for text in texts] == [True, True, False, False]
    assert all(text.startswith("A") for text in texts[2:])
    beams = model.generate(
        text=["The", "A"], tokenizer=tokenizer, num_beams=3, num_return_sequences=3, max_length=12
    )
    assert [text[0] for text in beams] == ["T"] * 3 + ["A"] * 3


def test_the_settings_saved_with_the_model_hold(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    GenerationConfig(max_new_tokens=7, pad_token_id=2).save_pretrained(folder)
    model = LumiereForCausalLM.from_pretrained(folder)
    assert model.generate(text="The lamp") == expected_text(model, tokenizer, "The lamp", 7)


@both_families
def test_a_full_output_has_the_text_too(model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
    """Transformers' own output, all of it, with the text that would be returned without it."""
    full = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 7}
    output = model.generate(text="The lamp", tokenizer=tokenizer, **full)
    assert output.text == output["text"] == expected_text(model, tokenizer, "The lamp", 7)
    assert output.sequences.shape == (1, len(tokenizer("The lamp")["input_ids"]) + 7)
    assert [scores.shape for scores in output.scores] == [(1, 300)] * 7

    prompts = ["The", "A"]
    beams = model.generate(
        text=prompts, tokenizer=tokenizer, num_beams=3, num_return_sequences=2, **full
    )
    assert [text[0] for text in beams.text] == ["T", "T", "A", "A"]
    assert beams.sequences_scores.shape == (4,)


def test_an_end_token_ends_the_text_and_is_not_shown(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():  # whatever the hidden state, one of the two is the likeliest token
        model.lm_head.weight[1] = 100 * torch.randn(32, generator=torch.Generator().manual_seed(0))
        model.lm_head.weight[2] = -model.lm_head.weight[1]
    prompts = ["The lamp", "Ships"]
    model.generation_config.eos_token_id = [1, 2]
    assert model.generate(text=prompts, tokenizer=tokenizer, max_new_tokens=9) == prompts
    endless = {"eos_token_id": None, "max_new_tokens": 9, "return_dict_in_generate": True}
    output = model.generate(text=prompts, tokenizer=tokenizer, **endless)
    assert set(output.sequences[:, -9:].flatten().tolist()) <= {1, 2}


def test_what_fills_up_a_row_that_has_ended_is_not_shown(model: LumiereForCausalLM) -> None:
    """Also where the tokenizer has no special token, so that any word fills it up."""
    words = {f"w{index}": index for index in range(300)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    prompts = [f"w{index}" for index in range(3, 9)]
    alone = [plain_greedy(model, [index], 30) for index in range(3, 9)]
    end = alone[0][6]
    made = [row[1:] for row in alone]
    made = [row[: row.index(end) + 1] if end in row else row for row in made]
    texts = model.generate(text=prompts, tokenizer=tokenizer, max_new_tokens=30, eos_token_id=end)
    expected = [
        " ".join([prompt, *(f"w{token}" for token in row)])
        for prompt, row in zip(prompts, made, strict=True)
    ]
    assert texts == expected
    assert len({len(row) for row in made}) > 1


def test_a_string_can_end_the_text(
    model: LumiereForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = expected_text(model, tokenizer, "The lamp", 30)
    stop = whole[14]
    text = model.generate(
        text="The lamp", tokenizer=tokenizer, max_new_tokens=30, stop_strings=[stop]
    )
    assert whole.startswith(text)
    assert stop in text[len("The lamp") :]
    assert len(text) < len(whole)


def test_ids_go_to_the_generate_of_transformers(
    model: LumiereForCausalLM, ids: torch.Tensor
) -> None:
    expected = torch.tensor([plain_greedy(model, row.tolist(), 4) for row in ids])
    assert torch.equal(model.generate(ids, max_new_tokens=4), expected)
    assert torch.equal(model.generate(inputs=ids, max_new_tokens=4), expected)
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=4), expected)
    settings = GenerationConfig(max_new_tokens=4)
    assert torch.equal(model.generate(ids, settings), expected)
