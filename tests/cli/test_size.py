"""``--size``: one number in place of width, depth, context and batch."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import overrides

from lumenspark.cli import run
from lumenspark.cli.parsing import parse_recipe
from lumenspark.errors import UserError
from lumenspark.pipeline import train
from lumenspark.recipe import load_recipe
from lumenspark.runs.run import list_runs
from lumenspark.training.scaling import scaled

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "arguments",
    [
        ["lumiere-1m", "--size", "3m"],
        ["lumiere-1m", "--size=3m"],
        ["--size", "3m"],
        ["--size", "3m", "lumiere-1m"],
    ],
)
def test_wherever_it_stands(arguments: list[str]) -> None:
    assert parse_recipe("train", "", arguments) == scaled(load_recipe("lumiere-1m"), "3m")


def test_what_else_is_given_wins() -> None:
    given = ["--model.num-hidden-layers", "6", "--train.batch-size=8", "--budget", "1h"]
    recipe = parse_recipe("train", "", ["lumiere-1m", *given, "--size", "3m"])
    assert (recipe.model.num_hidden_layers, recipe.train.batch_size) == (6, 8)
    assert (recipe.model.hidden_size, recipe.budget) == (224, "1h")


def test_a_recipe_file_can_be_scaled(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndata: my-folder\noptim: {muon_lr: 0.03}\n")
    recipe = parse_recipe("prepare", "", [str(file), "--size", "10m"])
    assert (recipe.name, recipe.data, recipe.optim.muon_lr) == ("mine-10m", "my-folder", 0.03)
    assert recipe.model.context == 256


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_help_names_it(verb: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        run([verb, "--help"])
    assert "--size 3m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "huge"], "such as 3m, not 'huge'"),
        (["--size"], "such as 3m, not ''"),
        (["lumenspark-1m", "--size", "3m"], "lumenspark-1m has the family lumenspark"),
        (["lumiere-tiny", "--size=3m"], "lumiere-tiny has another"),
        (["--size", "3m", "--init-from", "a-model"], "omit one of them"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_what_is_wrong_is_one_sentence(
    verb: str, arguments: list[str], words: str, capsys: Capture
) -> None:
    assert run([verb, *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1


def test_from_python_too_weights_cannot_be_scaled() -> None:
    with pytest.raises(UserError, match="omit one of them"):
        train(size="3m", init_from="a-model")


def test_a_small_size_trains_from_beginning_to_end(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path))
    small = overrides(inspect__every=0, tokenizer__vocab_size=512, train__steps=4)
    assert run(["train", "--size", "300k", "--data", str(text_folder), *small]) == 0
    (trained,) = list_runs()
    recipe = yaml.safe_load((trained.path / "recipe.yaml").read_text())
    assert (recipe["name"], recipe["model"]["hidden_size"]) == ("lumiere-300k", 64)
    # The family's vocabulary is 4,096; another one changes the table's rows alone.
    config = json.loads((trained.checkpoint("best") / "config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"]) == (2, 512)
