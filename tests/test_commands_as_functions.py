"""``lumenspark.evaluate`` and its like: what the commands do, with the same names."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import lumenspark
from lumenspark import api
from lumenspark.cli import run
from lumenspark.cli.arguments import LoadArguments
from lumenspark.errors import UserError

ONLY_ON_THE_COMMAND_LINE = {"json", "check"}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("command", ["evaluate", "generate", "card", "push", "resume"])
def test_a_function_takes_the_options_of_its_command(command: str) -> None:
    options = {field.name for field in fields(import_module(f"lumenspark.cli.{command}").Arguments)}
    if "load" in options:
        options |= {field.name for field in fields(LoadArguments)}
    if "text" in options:
        options |= {"data"}
    taken = set(inspect.signature(getattr(lumenspark, command)).parameters)
    names = {"run": "name"} if command == "resume" else {}
    wanted = {names.get(option, option) for option in options - {"load", "text"}}
    assert wanted - ONLY_ON_THE_COMMAND_LINE <= taken


def test_evaluate_gives_and_stores_what_the_command_does(
    copied: Path, text_folder: Path, printed: Callable[..., str]
) -> None:
    def stored() -> list[dict[str, object]]:
        return json.loads((copied / "evaluation.json").read_text())["evaluations"]

    options = {"split": "validation", "context": 16, "stride": 4}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    expected = json.loads(printed("evaluate", copied.name, *arguments, "--json"))
    before = stored()
    for model, data in (("latest", None), (copied.name, str(text_folder)), (str(copied), None)):
        found = lumenspark.evaluate(model, data, **options)
        assert found.loss == expected["loss"]
        assert found.bits_per_byte == expected["bits_per_byte"]
    assert len(stored()) == len(before)  # the same settings: the newest replaces the others
    assert str(stored()[-1]["command"]).startswith("lumenspark.evaluate(")
    pair = lumenspark.load("latest")
    after = stored()
    assert lumenspark.evaluate(pair, str(text_folder), **options).loss == expected["loss"]
    assert stored() == after
    folder = str(copied / "checkpoints" / "last")
    assert lumenspark.evaluate(folder, data=str(text_folder), protocol="card").protocol == "card"
    assert (copied / "checkpoints" / "last" / "evaluation.json").is_file()


def test_what_has_no_text_needs_one(copied: Path) -> None:
    for model in (str(copied / "checkpoints" / "best"), lumenspark.load("latest")):
        with pytest.raises(UserError, match="names no text: give data"):
            lumenspark.evaluate(model)
    with pytest.raises(UserError, match=r"the model is a int: give the name of one, or \(model, "):
        lumenspark.generate(3, "The")


def test_generate_gives_the_text_that_the_command_prints(
    copied: Path, printed: Callable[..., str]
) -> None:
    options = ("--max-new-tokens", "8", "--temperature", "0.9", "--seed", "3")
    settings = {"max_new_tokens": 8, "temperature": 0.9, "seed": 3}
    text = lumenspark.generate("latest", "The list", **settings)
    assert text.startswith("The list")
    assert printed("generate", copied.name, "The list", *options) == text + "\n"
    pair = lumenspark.load("latest")
    assert lumenspark.generate(pair, "The list", **settings) == text
    several = lumenspark.generate(pair, ["The list", "A"], n=2, **settings)
    assert several[0] == text
    assert [each[0] for each in several] == ["T", "T", "A", "A"]
    assert lumenspark.generate(pair, "The list", n=1, **settings) == [text]
    with pytest.raises(UserError, match="temperature is -1: it must be 0 or more"):
        lumenspark.generate(pair, "The list", temperature=-1)
    with pytest.raises(UserError, match="the number of texts is 0"):
        lumenspark.generate(pair, "The list", n=0)


def test_compress_writes_the_folder_that_the_command_writes(
    copied: Path, text_folder: Path, tmp_path: Path, printed: Callable[..., str]
) -> None:
    printed("compress", copied.name, str(tmp_path / "command"), "--rank", "4")
    result = lumenspark.compress("latest", tmp_path / "function", rank=4)
    assert set(result.scores) == {"original", "compressed"}
    weights = [tmp_path / name / "model.safetensors" for name in ("command", "function")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    best = str(copied / "checkpoints" / "best")
    assert lumenspark.compress(best, str(tmp_path / "plain"), rank=4).scores == {}
    told = {"data": str(text_folder), "split": "validation", "calibration_tokens": 0}
    scores = lumenspark.compress(best, tmp_path / "scored", rank=4, **told).scores
    assert scores["original"].split == "validation"


def test_prepare_card_and_list_runs(
    copied: Path, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = lumenspark.prepare("lumiere-tiny", data=str(text_folder))
    assert (tokens.folder / "tokenizer.json").is_file()
    assert "train: 1 file, 24 documents" in capsys.readouterr().out
    (copied / "README.md").unlink()
    assert lumenspark.card("latest") == copied / "README.md"
    assert (copied / "README.md").is_file()
    assert [each.id for each in lumenspark.list_runs()] == [copied.name]


def test_sweep_is_a_function_whatever_was_imported_before(own_runs: Path) -> None:
    import lumenspark.sweeps.runner
    import lumenspark.upload

    assert lumenspark.sweep is lumenspark.sweeps.runner.sweep
    assert lumenspark.push is api.push
    with pytest.raises(UserError, match="no run"):
        lumenspark.push("nothing", "someone/tiny")
