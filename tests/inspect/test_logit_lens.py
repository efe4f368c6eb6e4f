"""The logit lens, and attributions that sum to the logit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from inspectable import assert_near, every_kind, make_model
from torch import Tensor
from torch.nn import functional

import lumenspark
from lumenspark.errors import UserError
from lumenspark.inspect import attribution, logit_lens


def final_norm(model: Any) -> Any:
    return model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm


@every_kind
def test_the_lens_is_the_models_end_on_each_layers_stream(model: Any, ids: Tensor) -> None:
    lens = logit_lens(model, ids, top=3)
    assert lens.rows == ["embed", "blocks.0.residual", "blocks.1.residual"]
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        middle = model.lm_head(final_norm(model)(out.hidden_states[1])).softmax(-1)
    likeliest = middle.topk(3)
    assert torch.equal(lens.ids[1], likeliest.indices)
    assert_near(lens.probabilities[1], likeliest.values)
    assert torch.equal(lens.ids[-1, ..., 0], out.logits.argmax(-1))
    losses = functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    assert_near(lens.loss[-1, :, 1:].flatten(), losses)
    assert lens.loss[:, :, 0].isnan().all()
    assert lens.curve[-1] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_the_lens_names_its_guesses(trained: Path) -> None:
    model, tokenizer = lumenspark.load(str(trained))
    lens = logit_lens(model, "a list of values")
    logits = lens.trace.logits[0]
    assert lens.guesses()[-1] == [tokenizer.decode([token]) for token in logits.argmax(-1)]
    second = logits.topk(2).indices[:, 1]
    assert lens.guesses(top=2)[-1] == [tokenizer.decode([token]) for token in second]


@every_kind
def test_the_parts_sum_to_the_logit_of_the_token_that_came(model: Any, ids: Tensor) -> None:
    found = attribution(model, ids)
    with torch.no_grad():
        logits = model(ids).logits
    assert torch.equal(found.targets[:, :-1], ids[:, 1:])
    assert torch.equal(found.targets[:, -1], logits[:, -1].argmax(-1))
    assert_near(found.logits, logits.gather(-1, found.targets[..., None])[..., 0])
    assert_near(found.values.sum(0), found.logits)
    wanted = {"embed", "blocks.0.mlp.out", "blocks.1.mlp.out"}
    wanted |= {f"blocks.{layer}.attention.heads[{head}]" for layer in (0, 1) for head in range(4)}
    assert wanted <= set(found.parts)


@every_kind
def test_the_parts_of_a_difference_sum_to_it(model: Any, ids: Tensor) -> None:
    found = attribution(model, ids, targets=7, against=torch.full_like(ids, 9))
    with torch.no_grad():
        logits = model(ids).logits
    assert_near(found.values.sum(0), logits[..., 7] - logits[..., 9])


def test_a_heads_share_is_what_it_adds_seen_through_norm_and_output_layer(
    model: Any, ids: Tensor
) -> None:
    shares = attribution(model, ids, targets=7)
    attention = model.model.layers[1].self_attn
    mixed = []
    hook = attention.o_proj.register_forward_pre_hook(lambda module, args: mixed.append(args[0]))
    with torch.no_grad():
        out = model(ids, output_hidden_states=False)
        hook.remove()
        stream: list[Tensor] = []
        block = model.model.layers[1]
        hook = block.register_forward_hook(lambda module, args, output: stream.append(output[0]))
        model(ids)
        hook.remove()
        own = slice(16, 24)  # head 2 of 4, 8 features each
        added = mixed[0][..., own] @ attention.o_proj.weight[:, own].T
        size = (stream[0].square().mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()
        share = (added / size * model.model.norm.weight) @ model.lm_head.weight[7]
    assert_near(shares.values[shares.parts.index("blocks.1.attention.heads[2]")], share)
    assert out.logits.shape[:2] == share.shape


def test_shares_at_a_position_come_largest_first(model: Any, ids: Tensor) -> None:
    found = attribution(model, ids)
    shares = found.at(-1, row=1)
    assert list(shares.values()) == sorted(shares.values(), key=abs, reverse=True)
    assert sum(shares.values()) == pytest.approx(float(found.logits[1, -1]), abs=1e-3)


def test_biases_are_a_part_of_their_own(ids: Tensor) -> None:
    parts = attribution(make_model("gpt2"), ids).parts
    assert {"blocks.0.attention.bias", "final_norm.bias and head.bias"} <= set(parts)
    assert not any("bias" in part for part in attribution(make_model("lumiere"), ids).parts)


def test_targets_that_do_not_fit_are_an_error(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match=r"targets of shape \(3,\) do not fit"):
        attribution(model, ids, targets=torch.zeros(3, dtype=torch.long))


def test_top_has_an_end(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="top is 301: choose from 1 to 300"):
        logit_lens(model, ids, top=301)


def test_targets_are_entries_of_the_vocabulary(model: Any, ids: Tensor) -> None:
    with pytest.raises(UserError, match="token ids of this model range from 0 to 299"):
        attribution(model, ids, targets=7000)


def test_a_model_in_training_is_looked_at_in_evaluation_mode(ids: Tensor) -> None:
    model = make_model("lumiere")
    model.config.dropout = 0.5
    expected = logit_lens(model, ids).loss
    model.train()
    model.model.layers[0].eval()
    assert torch.equal(logit_lens(model, ids).loss.nan_to_num(), expected.nan_to_num())
    shares = attribution(model, ids)
    assert_near(shares.values.sum(0), shares.logits)
    assert model.training
    assert not model.model.layers[0].training


def test_padded_ids_come_with_their_mask(model: Any, padded: dict[str, Tensor]) -> None:
    ids, mask = padded["input_ids"], padded["attention_mask"]
    lens = logit_lens(model, ids, attention_mask=mask)
    alone = logit_lens(model, ids[0, -7:])
    assert_near(lens.loss[:, 0, -6:], alone.loss[:, 0, -6:])
    assert lens.loss[:, 0, :5].isnan().all()
    shares = attribution(model, ids, attention_mask=mask)
    assert_near(shares.values.sum(0)[mask.bool()], shares.logits[mask.bool()])
