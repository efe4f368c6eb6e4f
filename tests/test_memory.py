"""What models and trainings need of memory, said before it is taken."""

import re
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

import lumenspark.memory as memory
from lumenspark.cli import run
from lumenspark.errors import UserError
from lumenspark.recipe import load_recipe, with_overrides
from lumenspark.training.estimate import quick_estimate
from lumenspark.training.model_factory import NO_TOKENS, model_of

MANY = str(10**12)
TOO_LARGE = [
    ("lumiere-tiny", "model.num_hidden_layers", "1000000"),
    ("lumiere-tiny", "model.num_hidden_layers", MANY),
    ("lumiere-tiny", "model.hidden_size", "1000000000"),
    ("lumiere-tiny", "model.intermediate_size", MANY),
    ("lumiere-tiny", "model.max_position_embeddings", MANY),
    ("lumiere-tiny", "train.batch_size", "1000000000"),
    ("lumiere-tiny", "train.gradient_accumulation_steps", MANY),
    ("lumenspark-1m", "model.depth", "1000000"),
    ("lumenspark-1m", "model.seq_length", "1000000000"),
]


@pytest.mark.parametrize(("recipe", "key", "value"), TOO_LARGE)
def test_a_recipe_that_no_machine_can_train_is_refused(
    recipe: str, key: str, value: str, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", recipe, f"--{key}", value, "--data", str(text_folder)]
    for more in ([], ["--dry-run"]):
        assert run([*arguments, *more]) == 2
        printed = capsys.readouterr().err
        assert re.search(r"needs about \d+(\.\d+)? \w+ of memory at least", printed)
        assert "and this machine has " in printed
        assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        ("lumiere-tiny", "tokenizer.vocab_size", MANY),
        ("lumiere-tiny", "model.hidden_size", str(4 * 10**17)),
        ("lumenspark-1m", "model.k", MANY),
    ],
)
def test_a_number_beyond_its_bound_is_refused(
    recipe: str, key: str, value: str, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", recipe, f"--{key}", value, "--data", str(text_folder)]) == 2
    printed = capsys.readouterr().err
    assert value in printed
    assert printed.count("\n") == 1


def test_too_many_threads(text_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--train.threads", "1000000", "--data", str(text_folder)]
    assert run(["train", "lumiere-tiny", *asked]) == 2
    assert "train.threads is 1,000,000: give one for each core" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lumiere-1m", "lumenspark-1m"])
def test_counting_changes_no_weights_and_counts_right(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(name)
    counted = []
    real = memory.training_bytes

    def recorded(*arguments: object) -> int:
        counted.append(real(*arguments))  # type: ignore[arg-type]
        return counted[-1]

    monkeypatch.setattr("lumenspark.training.model_factory.training_bytes", recorded)
    torch.manual_seed(0)
    model = model_of(recipe, vocab_size=300, **NO_TOKENS)
    monkeypatch.setattr("lumenspark.training.model_factory.check_training_fits", lambda *_: None)
    torch.manual_seed(0)
    again = model_of(recipe, vocab_size=300, **NO_TOKENS)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    # From one block and from two it is the same as from the whole model.
    assert counted == [real(recipe, model)]


def test_an_estimate_of_what_is_too_large() -> None:
    recipe = with_overrides(load_recipe("lumiere-tiny"), {"model.hidden_size": 4 * 10**8})
    with pytest.raises(UserError, match="of memory at least"):
        quick_estimate(recipe)


def test_the_limit_is_that_of_the_control_group(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a/b\n3:cpu:/c\n0::/job/step\n")
    for name, content in (
        ("memory/a/memory.limit_in_bytes", "7000"),
        ("memory/memory.limit_in_bytes", "9223372036854771712"),
        ("job/memory.max", "5000"),
        ("job/step/memory.max", "max"),
    ):
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    assert min(memory._cgroup_limits(tmp_path)) == 5000
    (tmp_path / "sys/fs/cgroup/job/memory.max").unlink()
    assert min(memory._cgroup_limits(tmp_path)) == 7000
    assert memory._cgroup_limits(tmp_path / "nothing") == []


def test_the_limit_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.memory_limit()
    assert 2**28 < whole < 2**50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12345, 12345))
    assert memory.memory_limit() == 12345


def test_modules_are_counted_while_they_are_built() -> None:
    built = []

    def endless() -> nn.Module:
        layers = nn.ModuleList()
        while True:
            layers.append(nn.Linear(10**6, 10**6))
            built.append(1)

    with pytest.raises(UserError, match="more than 50 modules"):
        memory.on_meta(endless, most_modules=50)
    assert len(built) <= 50
    assert len(nn.Sequential(*(nn.Identity() for _ in range(60)))) == 60  # elsewhere, any number


def test_errors_of_memory_are_known() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(refused.value)
    wrapped = UserError("a sentence")
    wrapped.__cause__ = MemoryError()
    assert memory.is_out_of_memory(wrapped)
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_out_of_memory(RuntimeError("shapes"))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (4_215_296, "4.22 MB"),
        (2.5e10, "25 GB"),
        (1e30, "over a million EB"),
    ],
)
def test_sizes_are_written_in_a_unit_that_fits(count: float, text: str) -> None:
    assert memory.size(count) == text
