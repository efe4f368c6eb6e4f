"""The command line as its users type it."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path

import pytest
import yaml
from command_line import lumenspark, overrides

from lumenspark.cli import COMMANDS, run
from lumenspark.recipe import recipe_names

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def refused(capsys: Capture) -> Callable[..., str]:
    """Run a command line that must fail as a user's error does; its one sentence."""

    def run_and_read(*arguments: str) -> str:
        capsys.readouterr()
        assert run(list(arguments)) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("lumenspark: ")
        assert printed.count("\n") == 1
        return printed

    return run_and_read


def test_help_fits_a_screen_and_names_every_command(call: Callable[..., str]) -> None:
    printed = call("--help")
    lines = printed.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert all(any(line.split()[:1] == [command] for line in lines) for command in COMMANDS)


def test_the_first_commands_work_as_they_are_printed(call: Callable[..., str]) -> None:
    """And the program alone prints them."""
    assert call() == call("--help")
    lines = [line.strip() for line in call().splitlines()]
    first = [re.split(r"  +", line)[0] for line in lines if line.startswith("lumenspark ")]
    assert len(first) >= 4
    for command in first:
        _, verb, *arguments = shlex.split(command)
        module = import_module(f"lumenspark.cli.{verb}")
        if hasattr(module, "parse_recipe"):
            module.parse_recipe(verb, "", arguments)
        else:
            module.parse(module.Arguments, verb, arguments)


@pytest.mark.parametrize("command", ["train", "sweep", "prepare"])
def test_help_has_the_common_options_first(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    panel = next(
        number for number, line in enumerate(lines) if re.fullmatch(r"\W*options\W*", line)
    )
    first = [line.split()[0] for line in lines[:panel] if line.startswith("--")]
    common = ["--data", "--budget", "--train.steps", "--size", "--seed", "--device"]
    assert [option for option in first if option in common] == common
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        run([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: lumenspark {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["runs", "--help"]])
@pytest.mark.parametrize("buffered", ["", "1"])  # PYTHONUNBUFFERED
def test_a_reader_that_has_gone_is_no_error(arguments: list[str], buffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "lumenspark", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": buffered},
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command(refused: Callable[..., str]) -> None:
    assert "did you mean train?" in refused("trian")


@pytest.mark.parametrize(
    "name", ["x" * 5000, "x" * 200, "/".join(["x" * 200] * 9), "a/b@" + "x" * 5000]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "{}", "hi"],
        ["evaluate", "{}", "--data", "python-docs"],
        ["inspect", "{}", "hi"],
        ["compress", "{}", "out", "--energy", "0.5"],
        ["train", "--init-from", "{}"],
        ["train", "--size", "{}"],
        ["card", "{}"],
        ["resume", "{}"],
        ["{}"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_long_name_is_quoted_in_part(
    arguments: list[str], name: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    printed = refused(*(word.replace("{}", name) for word in arguments))
    assert max(map(len, printed.replace("@", " ").split())) <= 85


@pytest.mark.parametrize("name", ["a/" + "b" * 120, "a--b/c", "a/b..c", "a/b.", "-a", "a/b-"])
def test_what_is_no_id_of_the_hub(name: str, refused: Callable[..., str]) -> None:
    assert "a hub id such as org/model" in refused("generate", "--seed", "1", "--", name, "hi")


def test_a_users_error_is_one_sentence_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    plain = lumenspark("generate", "nothing", "The", cwd=tmp_path)
    assert plain.returncode == 2
    assert plain.stderr.startswith("lumenspark: 'nothing' is no folder and no run")
    assert "Traceback" not in plain.stderr
    debugged = lumenspark("--debug", "generate", "nothing", "The", cwd=tmp_path)
    assert "Traceback" in debugged.stderr


def test_a_run_leaves_what_the_design_says(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith(".")}
    assert names == {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "evaluation.json",
        "loss.svg",
        "samples.json",
        "README.md",
    }
    assert len(trained.name) == 8
    assert set(trained.name) <= set("abcdefghijklmnopqrstuvwxyz23456789")
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    assert recipe["train"]["steps"] == 12
    assert recipe["device"] != "auto"
    assert "auto" not in {recipe["train"]["precision"], recipe["train"]["compile"]}
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in metrics if "validation_loss" in line] == [4, 8, 12]
    assert {entry["protocol"] for entry in _evaluations(trained)} == {"card", "strided"}
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["parameters"] == 63_216
    assert environment["torch"]
    svg = (trained / "loss.svg").read_text()
    assert svg.startswith("<?xml")
    assert "nats per token" in svg


def test_training_is_deterministic(
    trained: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path))
    assert run(["train", "lumiere-tiny", "--data", str(text_folder), *overrides()]) == 0
    (again,) = tmp_path.iterdir()
    weights = Path("checkpoints", "best", "model.safetensors")
    assert (again / weights).read_bytes() == (trained / weights).read_bytes()


def test_runs_lists_figures(trained: Path, call: Callable[..., str]) -> None:
    line = next(line for line in call("runs").splitlines() if trained.name in line)
    assert "lumiere-tiny" in line
    assert "12/12" in line
    test = next(entry for entry in _evaluations(trained) if entry["protocol"] == "strided")
    assert f"{test['bits_per_byte']:.4f} {test['loss']:.4f}" in line


def test_runs_compare_by_bits_per_byte(copied: Path, call: Callable[..., str]) -> None:
    """Losses per token of two vocabularies do not compare: the smaller one has the lower loss."""
    worse = shutil.copytree(copied, copied.parent / "aaaaaaaa")
    entries = _evaluations(worse)
    for entry in entries:
        if entry["protocol"] == "strided":
            entry |= {"bits_per_byte": entry["bits_per_byte"] + 1, "loss": 1.0, "perplexity": 2.7}
    (worse / "evaluation.json").write_text(json.dumps({"evaluations": entries}))
    without = shutil.copytree(copied, copied.parent / "bbbbbbbb")
    (without / "evaluation.json").unlink()
    header, *lines = call("runs", "--best").splitlines()
    assert header.split()[3:6] == ["steps", "bits/byte", "loss"]
    assert [line.split()[0] for line in lines if "lumiere" in line] == [
        copied.name,
        "aaaaaaaa",
        "bbbbbbbb",
    ]


def test_an_evaluation_on_another_text_leaves_the_list_as_it_is(
    copied: Path, call: Callable[..., str], tmp_path: Path
) -> None:
    before = call("runs")
    (tmp_path / "other.txt").write_text("Quite another text, in a few words. " * 200)
    call("evaluate", copied.name, "--data", tmp_path / "other.txt", "--split", "train")
    assert len(_evaluations(copied)) == 3
    assert call("runs") == before


def test_no_runs(call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path))
    assert "no runs in" in call("runs")


def test_recipes_lists_sizes_and_times(call: Callable[..., str]) -> None:
    printed = call("recipes")
    (line,) = (line for line in printed.splitlines() if line.split()[:1] == ["lumiere-1m"])
    assert "1,053,824" in line
    assert "4m (its budget)" in line
    for name in recipe_names():
        (parameters,) = (
            line.split()[2] for line in printed.splitlines() if line.startswith(f"{name} ")
        )
        preset = resources.files("lumenspark") / "recipes" / f"{name}.yaml"
        assert f"{parameters} parameters" in preset.read_text("utf-8"), "its comment is true"


def test_recipes_measures_on_request_and_keeps_the_result(
    call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(*arguments: str) -> tuple[str, str]:
        """The time of lumiere-tiny, and the line below the table."""
        lines = call("recipes", *arguments).splitlines()
        (line,) = (line for line in lines if "lumiere-tiny " in line)
        return line.split(" 32 ")[-1].strip(), lines[-2]

    monkeypatch.setenv("LUMENSPARK_CACHE", str(tmp_path))
    assert tiny() == (
        "300 steps",
        "--measure measures the time of a number of steps here, and keeps it",
    )
    time, legend = tiny("--measure")
    assert re.fullmatch(r"300 steps, \d+\.\d min", time)
    assert re.fullmatch(
        r"minutes: measured here on \d{4}-\d\d-\d\d; --measure measures again", legend
    )
    assert tiny() == (time, legend)
    with monkeypatch.context() as another:  # machine
        another.setenv("OMP_NUM_THREADS", "77")
        assert tiny()[0] == "300 steps"
    for file in tmp_path.rglob("times/*.json"):
        file.write_text('{"seconds": "many"}')
    assert tiny()[0] == "300 steps"


def test_a_dry_run_measures_and_leaves_nothing(
    text_folder: Path, call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "runs"))
    printed = call("train", "lumiere-tiny", "--data", str(text_folder), *overrides(), "--dry-run")
    for words in ("parameters 63,216", "steps 12 of ", "tokens seen 1,536", "memory", "MiB"):
        assert words in " ".join(printed.split())
    assert not (tmp_path / "runs").exists()


def test_prepare_makes_what_train_then_finds(
    text_folder: Path, call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_CACHE", str(tmp_path))
    first = call("prepare", "lumiere-tiny", "--data", str(text_folder))
    assert "training a tokenizer with 512 entries" in first
    second = call("prepare", "lumiere-tiny", "--data", str(text_folder))
    assert "learning" not in second
    assert second.splitlines()[-1] == first.splitlines()[-1]


@pytest.mark.parametrize("style", ["id", "prefix", "latest", "folder", "checkpoint folder"])
def test_the_names_of_a_run(copied: Path, call: Callable[..., str], style: str) -> None:
    name = {
        "id": copied.name,
        "prefix": copied.name[:3],
        "latest": "latest",
        "folder": str(copied),
        "checkpoint folder": str(copied / "checkpoints" / "best"),
    }[style]
    printed = call("generate", name, "The list", "--max-new-tokens", "5", "--seed", "1")
    assert printed.startswith("The list")


def test_a_prefix_of_two_runs(copied: Path, refused: Callable[..., str]) -> None:
    twin = copied.parent / (copied.name[:7] + ("a" if copied.name[7] != "a" else "b"))
    shutil.copytree(copied, twin)
    printed = refused("generate", copied.name[:7], "The")
    assert "could be several runs" in printed
    assert twin.name in printed


def test_a_folder_goes_before_a_run(
    copied: Path, call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(copied / "checkpoints" / "best", tmp_path / copied.name))
    (folder / "complete.json").unlink()  # else the change below would be found
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v * 0 for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    options = ["The", "--max-new-tokens", "4", "--temperature", "0"]
    by_name = call("generate", copied.name, *options)
    assert by_name == call("generate", str(folder), *options)
    assert by_name != call("generate", str(copied), *options)


@pytest.mark.parametrize("name", ["./no/such/folder", "/nowhere", "a b/c"])
def test_a_folder_that_is_not_there(name: str, refused: Callable[..., str]) -> None:
    assert "is no folder and no run" in refused("generate", name, "The")


def test_weights_that_are_damaged(copied: Path, refused: Callable[..., str]) -> None:
    (copied / "checkpoints" / "best" / "model.safetensors").write_bytes(b"short")
    assert "was truncated or altered" in refused("generate", copied.name, "The")


@pytest.mark.parametrize(
    "arguments", [("-n", "0"), ("--seed", "99999999999999999999"), ("--top-p", "0")]
)
def test_sampling_that_cannot_be(
    arguments: tuple[str, str], trained: Path, refused: Callable[..., str]
) -> None:
    assert "it must be" in refused("generate", str(trained), "The", *arguments)


def test_one_damaged_run_does_not_hide_the_others(copied: Path, call: Callable[..., str]) -> None:
    for name, file in (("aaaaaaaa", "environment.json"), ("bbbbbbbb", "recipe.yaml")):
        twin = shutil.copytree(copied, copied.parent / name)
        (twin / file).write_text("{no")
    printed = call("runs")
    assert copied.name in printed
    assert "skipped an unreadable file" in printed
    assert call("generate", copied.name, "The", "--max-new-tokens", "2").startswith("The")


def test_a_text_without_a_test_split_is_evaluated_on_validation(
    text_folder: Path, tmp_path: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "runs"))
    for name in ("train", "validation"):
        shutil.copy(text_folder / f"{name}.jsonl", tmp_path)
    printed = call("train", "lumiere-tiny", "--data", str(tmp_path), *overrides(train__steps=4))
    assert "validation split, protocol card" in printed
    assert list((tmp_path / "runs").glob("*/README.md"))


def test_a_folder_without_a_model(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "has neither a model (config.json) nor a run" in refused(
        "generate", str(tmp_path), "The"
    )


def test_generate_repeats_itself_for_a_seed(trained: Path, call: Callable[..., str]) -> None:
    options = ["The list", "--max-new-tokens", "20", "--seed"]
    first = call("generate", str(trained), *options, "1")
    assert first == call("generate", str(trained), *options, "1")
    assert first != call("generate", str(trained), *options, "2")


def test_generate_takes_prompts_from_standard_input(
    trained: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The list\n\nA class\n"))
    printed = call("generate", str(trained), "--max-new-tokens", "3", "--json", "-n", "2")
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["prompt"] for row in rows] == ["The list", "The list", "A class", "A class"]
    assert all(row["text"].startswith(row["prompt"]) for row in rows)


def test_no_prompt(
    trained: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert "standard input holds no prompt" in refused("generate", str(trained))


def test_generate_writes_past_the_context(trained: Path, call: Callable[..., str]) -> None:
    printed = call("generate", str(trained), "The list", "--max-new-tokens", "150", "--seed", "3")
    assert len(printed) > 100


def test_evaluate_a_run_stores_its_figures(copied: Path, call: Callable[..., str]) -> None:
    printed = call("evaluate", copied.name, "--split", "validation", "--stride", "8", "--json")
    figures = json.loads(printed)
    assert (figures["split"], figures["stride"], figures["protocol"]) == (
        "validation",
        8,
        "strided",
    )
    assert figures["loss"] in [entry["loss"] for entry in _evaluations(copied)]


def test_evaluate_a_folder_needs_a_text(
    copied: Path, text_folder: Path, call: Callable[..., str], refused: Callable[..., str]
) -> None:
    folder = copied / "checkpoints" / "best"
    assert "has no recorded text: give --data" in refused("evaluate", str(folder))
    printed = call("evaluate", str(folder), "--data", str(text_folder), "--protocol", "card")
    assert "nats per token" in printed
    assert (folder / "evaluation.json").is_file()


def test_the_card_says_what_the_files_say(
    copied: Path, call: Callable[..., str], refused: Callable[..., str]
) -> None:
    assert "agrees with its files" in call("card", copied.name, "--check")
    card = copied / "README.md"
    loss = next(e["loss"] for e in _evaluations(copied) if e["protocol"] == "card")
    card.write_text(card.read_text().replace(f"{loss:.4f}", "1.2345"))
    assert "differs from its files" in refused("card", copied.name, "--check")
    assert call("card", copied.name).strip() == str(card)
    assert "agrees with its files" in call("card", copied.name, "--check")


def test_a_run_that_is_not_there(refused: Callable[..., str]) -> None:
    for command in ("resume", "card"):
        assert "there is no run 'zzzz'" in refused(command, "zzzz")


def test_from_python(trained: Path) -> None:
    import lumenspark as package

    model, tokenizer = package.load(str(trained))
    text = model.generate(text="The list", max_new_tokens=8, tokenizer=tokenizer)
    assert text.startswith("The list")


def _evaluations(run_folder: Path) -> list[dict[str, object]]:
    return json.loads((run_folder / "evaluation.json").read_text())["evaluations"]
