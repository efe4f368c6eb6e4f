"""The pipeline serves the second family as it does the first."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from command_line import overrides

from lumenspark import load
from lumenspark.cli import run
from lumenspark.errors import UserError
from lumenspark.models import LumensparkConfig, LumensparkForCausalLM
from lumenspark.recipe import load_recipe, recipe_from, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.training.setup import set_up

SHAPE = {"embed-dim": 32, "depth": 2, "heads": 2, "rank": 8, "k": 4, "window": 8, "seq-length": 32}


def train(text_folder: Path, **more: object) -> Path:
    """A small run of lumenspark-1m by the command line; its folder."""
    runs = Path(os.environ["LUMENSPARK_RUNS"])
    before = set(runs.iterdir())
    shape = [part for key, value in SHAPE.items() for part in (f"--model.{key}", str(value))]
    small = overrides(train__compile="off", tokenizer__vocab_size=320, **more)
    assert run(["train", "lumenspark-1m", "--data", str(text_folder), *shape, *small]) == 0
    (path,) = set(runs.iterdir()) - before
    return path


def test_a_run_from_text_to_card(text_folder: Path) -> None:
    path = train(text_folder)
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "two factors of rank 8 each" in card
    assert "blocks of 8 tokens, and 4 slots per head, written to by content" in card
    assert "**Layers:** 2 transformer blocks" in card
    assert run(["card", str(path.name), "--check"]) == 0
    evaluations = json.loads((path / "evaluation.json").read_text())["evaluations"]
    assert {entry["context"] for entry in evaluations} == {32}
    model, tokenizer = load(path.name)
    assert isinstance(model, LumensparkForCausalLM)
    text = model.generate(text="The list", tokenizer=tokenizer, max_new_tokens=80)
    assert text.startswith("The list")


def test_the_same_recipe_gives_the_same_bits(text_folder: Path) -> None:
    first, second = (train(text_folder) / "checkpoints" / "best" for _ in range(2))
    name = "model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_dense_attention_by_an_override(text_folder: Path) -> None:
    path = train(text_folder, model__k="None")
    assert load(path.name)[0].config.k is None
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "**Attention:** dense" in card
    assert "slots per head" not in card


def test_a_window_without_slots(text_folder: Path) -> None:
    card = (train(text_folder, model__k=0) / "README.md").read_text(encoding="utf-8")
    assert "**Attention:** blocks of 8 tokens\n" in card


def test_weights_to_start_from_must_be_of_the_recipes_family(
    trained: Path, text_folder: Path
) -> None:
    start = str(trained / "checkpoints" / "best")
    changes = {"data": str(text_folder), "init_from": start}
    recipe = with_overrides(load_recipe("lumenspark-1m"), changes)
    with pytest.raises(UserError, match="a model of the recipe's family, lumenspark"):
        set_up(recipe, Reporter())


def parameters(name: str) -> int:
    architecture = asdict(load_recipe(name).model)
    del architecture["family"]
    config = LumensparkConfig(
        **architecture, vocab_size=4096, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    return sum(parameter.numel() for parameter in LumensparkForCausalLM(config).parameters())


def test_lumenspark_1m_is_as_large_as_lumiere_1m() -> None:
    assert parameters("lumenspark-1m") == pytest.approx(1_053_824, rel=0.01)
    assert load_recipe("lumenspark-1m").model.context == 1024


def test_lumenspark_long_takes_4096_tokens() -> None:
    assert load_recipe("lumenspark-long").model.context == 4096


def test_lumenspark_base_has_the_defaults_of_the_config() -> None:
    options, defaults = asdict(load_recipe("lumenspark-base").model), LumensparkConfig()
    del options["family"]
    assert options == {name: getattr(defaults, name) for name in options}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"family": "lumenspork"}, ["model.family", "did you mean lumenspark?"]),
        ({"family": ["lumenspark"]}, ["model.family = ['lumenspark'] is wrong"]),
        ({"family": "lumenspark", "hidden_size": 8}, ["unknown key model.hidden_size"]),
        ({"family": "lumenspark", "slots": 8}, ["unknown key model.slots"]),
        ({"family": "lumenspark", "k": -1}, ["model.k = -1", "greater than or equal to 0"]),
        ({"family": "lumenspark", "rank": "few"}, ["model.rank = 'few'", "integer"]),
        ({"embed_dim": 8}, ["unknown key model.embed_dim"]),
    ],
)
def test_what_is_wrong_in_a_familys_options_is_named(
    model: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        recipe_from({"model": model}, source="mine")
    for word in ["mine", *words]:
        assert word in str(caught.value)


def test_a_rank_that_saves_nothing_is_refused_before_training(text_folder: Path) -> None:
    changes = {"data": str(text_folder), "model.rank": 64}
    recipe = with_overrides(load_recipe("lumenspark-1m"), changes)
    with pytest.raises(UserError, match=r"rank=64 must be from 1 to 63 for embed_dim=128"):
        set_up(recipe, Reporter())
