"""Damaged run folders of every kind: a sentence or the work done, and nothing lost.

Every case copies one small run, damages a file of it, and calls commands on the copy. What must
hold: exit code 0 or 2, and with 2 one sentence; no traceback; the folder keeps all that was in it,
under its name or as ``damaged-…``.
"""

import hashlib
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import lumenspark
from safetensors.torch import load_file, save_file

from lumenspark.cli import run as call
from lumenspark.errors import UserError
from lumenspark.runs.checkpoint import WEIGHTS, latest_valid_checkpoint, verify_checkpoint

SETTINGS = {
    "train.steps": 6,
    "train.batch_size": 2,
    "train.log_every": 2,
    "train.validate_every": 3,
    "train.validation_windows": 4,
    "train.save_every": 2,
    "train.keep_checkpoints": 0,
    "model.hidden_size": 16,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 1,
    "model.intermediate_size": 24,
    "tokenizer.vocab_size": 270,
    "inspect.every": 3,
}
LAST_STEP = 8  # to which resume goes on
Damage = Callable[[Path], object]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps whose recipe names two more."""
    root = tmp_path_factory.mktemp("whole")
    words = [
        "the",
        "list",
        "of",
        "words",
        "that",
        "are",
        "in",
        "no",
        "order",
        "but",
        "always",
        "the",
        "same",
    ]
    draw = random.Random(0)
    (root / "text").mkdir()
    for split, lines in (("train", 60), ("validation", 10), ("test", 10)):
        text = [" ".join(draw.choices(words, k=20)) for _ in range(lines)]
        (root / "text" / f"{split}.txt").write_text("\n".join(text))
    options = [part for key, value in SETTINGS.items() for part in (f"--{key}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMENSPARK_RUNS", str(root / "runs"))
        assert call(["train", "lumiere-tiny", "--data", str(root / "text"), *options]) == 0
    (folder,) = (path for path in (root / "runs").iterdir() if path.is_dir())
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("steps: 6\n", f"steps: {LAST_STEP}\n"))
    (folder / ".lock").unlink(missing_ok=True)
    return folder


@pytest.fixture
def damaged(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, alone in a runs folder, for a test to damage."""
    monkeypatch.setenv("LUMENSPARK_RUNS", str(tmp_path / "runs"))
    return Path(shutil.copytree(whole, tmp_path / "runs" / whole.name))


@pytest.fixture(scope="module")
def resumed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to, resumed to its end."""
    runs = tmp_path_factory.mktemp("resumed")
    copy = Path(shutil.copytree(whole, runs / whole.name))
    assert call(["resume", str(copy)]) == 0
    return copy


def contents(folder: Path) -> dict[str, str]:
    """The digest of every regular file below ``folder``; of others what they are."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: what for name, what in found.items() if not name.endswith(".lock")}


def answer(damaged: Path, capsys: Capture, verb: str) -> int:
    """Call a verb on the run. Holds what must hold of every answer; returns the exit code."""
    name = damaged.name
    words = {
        "runs": ["runs"],
        "generate": ["generate", name, "the", "--max-new-tokens", "1"],
        "evaluate": ["evaluate", name],
        "card": ["card", name],
        "inspect": ["inspect", name, "--heads", "-o", str(damaged.parents[1] / "page.html")],
        "resume": ["resume", name],
    }[verb]
    before = contents(damaged)
    code = call(words)
    _, said = capsys.readouterr()
    assert code in (0, 2), said
    after = contents(damaged)
    if code == 2:
        sentences = [line for line in said.splitlines() if line.startswith("lumenspark: ")]
        assert len(sentences) == 1, said
        assert len(sentences[0]) < 3000
        assert set(before.values()) <= set(after.values()), "nothing is destroyed"
    made = {
        "card": {"README.md"},
        "evaluate": {"README.md", "evaluation.json"},
    }
    if verb != "resume":
        allowed = made.get(verb, set())
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        assert changed <= allowed, f"{verb} changed {changed}"
    return code


# Whole files: what may happen to any of them


def replaced_by(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return damage


def rewritten(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


NOISE = random.Random(1).randbytes(3000)
OF_FILES: dict[str, Damage] = {
    "empty": rewritten(lambda _: b""),
    "half": rewritten(lambda content: content[: len(content) // 2]),
    "noise": rewritten(lambda _: NOISE),
    "NUL bytes": rewritten(lambda content: bytes(len(content))),
    "a bit flipped": rewritten(flipped),
    "not UTF-8": rewritten(lambda content: content.replace(b'"', b'"\xff', 1)),
    "a byte-order mark": rewritten(lambda content: b"\xef\xbb\xbf" + content),
    "deeply nested": rewritten(lambda _: b"[" * 100_000),
    "a number of 5,000 digits": rewritten(lambda _: b"9" * 5000),
    "a list": rewritten(lambda _: b"[]\n"),
    "an empty object": rewritten(lambda _: b"{}\n"),
}
OF_PATHS: dict[str, Damage] = {
    "missing": replaced_by(lambda path: None),
    "a folder": replaced_by(lambda path: path.mkdir()),
    "a link to itself": replaced_by(lambda path: path.symlink_to(path.name)),
    "a link to nothing": replaced_by(lambda path: path.symlink_to("nowhere")),
}
NEVER_ENDING: dict[str, Damage] = {
    "a pipe": replaced_by(os.mkfifo),
    "zeros without an end": replaced_by(lambda path: path.symlink_to("/dev/zero")),
}
OUR_FILES = {
    "recipe.yaml": "runs evaluate inspect resume",
    "environment.json": "runs resume",
    "metrics.jsonl": "runs card inspect resume",
    "evaluation.json": "runs evaluate resume",
    "checkpoints/best/complete.json": "runs generate resume",
    "checkpoints/last/complete.json": "runs resume",
    "checkpoints/last/trainer.json": "runs resume",
    "checkpoints/last/trainer.safetensors": "resume",
}
MODEL_FILES = {
    "checkpoints/best/model.safetensors": "generate evaluate inspect resume",
    "checkpoints/last/model.safetensors": "resume",
}
MADE_AT_THE_END = {
    "README.md": "runs resume",
    "loss.svg": "resume",
    "inspect.html": "resume",
    "samples.json": "resume",
}
FOLDERS = {
    "checkpoints": "runs card generate evaluate inspect resume",
    "checkpoints/best": "runs card generate evaluate inspect resume",
    "checkpoints/last": "runs generate resume",
}


def whole_file_cases() -> Iterator[Any]:
    for files, damages in (
        (OUR_FILES, OF_FILES | OF_PATHS | NEVER_ENDING),
        (MODEL_FILES, OF_FILES | OF_PATHS),
        (MADE_AT_THE_END, OF_PATHS),
    ):
        for (name, verbs), damage in itertools.product(files.items(), damages):
            yield pytest.param(name, damages[damage], verbs.split(), id=f"{name}-{damage}")
    a_file = {"a file": replaced_by(lambda path: path.write_text("a file"))}
    emptied = {"empty": replaced_by(lambda path: path.mkdir())}
    damages = OF_PATHS | a_file | emptied
    for (name, verbs), damage in itertools.product(FOLDERS.items(), damages):
        yield pytest.param(name, damages[damage], verbs.split(), id=f"{name}-{damage}")


@pytest.mark.parametrize(("name", "damage", "verbs"), list(whole_file_cases()))
def test_a_damaged_file(
    damaged: Path, resumed: Path, capsys: Capture, name: str, damage: Damage, verbs: list[str]
) -> None:
    damage(damaged / name)
    for verb in verbs:
        code = answer(damaged, capsys, verb)
        if verb == "runs":
            assert code == 0, "one damaged run breaks no list"
        if verb == "resume" and code == 0:
            assert_finished_like(damaged, resumed)


def assert_finished_like(damaged: Path, resumed: Path) -> None:
    """All files are there, and the weights are those of the run that nothing happened to."""
    for name in ("evaluation.json", "README.md", "loss.svg", "inspect.html", "environment.json"):
        assert (damaged / name).is_file(), name
    last, whole_last = (run / "checkpoints" / "last" for run in (damaged, resumed))
    assert verify_checkpoint(last) is None
    assert json.loads((last / "complete.json").read_text())["step"] == LAST_STEP
    assert verify_checkpoint(damaged / "checkpoints" / "best") is None
    same = [(each / "model.safetensors").read_bytes() for each in (last, whole_last)]
    assert same[0] == same[1]


# Values: each key of a JSON file in turn

VALUES = [None, True, -5, 2**70, 0.5, float("nan"), float("inf"), "text", [], {}, "…"]


def set_value(path: Path, keys: list[str], value: Any) -> None:
    """Write ``value`` at a nested key; the value "…" deletes the key."""
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    last = int(keys[-1]) if isinstance(place, list) else keys[-1]
    if value == "…":
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(content))


def seal(folder: Path) -> None:
    """Give a checkpoint's files the digests that they have now."""
    marker = folder / "complete.json"
    content = json.loads(marker.read_text())
    for name in content["files"]:
        content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    marker.write_text(json.dumps(content))


def keys_of(content: Any, depth: int = 2) -> list[list[str]]:
    """The path of keys to each value of a JSON object, down to ``depth``."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    paths = []
    for key, value in items:
        paths.append([str(key)])
        if depth > 1 and isinstance(value, dict | list):
            paths += [[str(key), *rest] for rest in keys_of(value, depth - 1)]
    return paths


def test_wrong_values_of_the_state(damaged: Path) -> None:
    """With the digest that fits them, as after a fault of this package's own."""
    last = damaged / "checkpoints" / "last"
    right = {"0.5": {"best_loss", "lowest_loss", "lr_scale", "loss_sum", "seconds"}}
    right["-5"] = right[str(2**70)] = {"best_loss", "lowest_loss", "loss_sum"}
    right["None"] = {"best_loss", "lowest_loss"}  # before the first validation
    right["'…'"] = {"lowest_loss"}  # of an earlier version
    for what in damage_each_value(damaged, "checkpoints/last/trainer.json", 1):
        seal(last)
        key, value = what.split(": ")[1].split(" = ")
        if key in right.get(value, set()):
            assert latest_valid_checkpoint(last.parent) == (last, []), what
            continue
        with pytest.raises(UserError, match=r"trainer\.json cannot be read"):
            latest_valid_checkpoint(last.parent)
    seal(last)
    assert latest_valid_checkpoint(last.parent) == (last, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", -5), ("step", 2**40), ("lr_scale", float("nan")), ("loss_sum", "text"), ("step", 5)],
)
def test_a_wrong_state_is_not_trained_from(
    damaged: Path, capsys: Capture, key: str, value: Any
) -> None:
    last = damaged / "checkpoints" / "last"
    set_value(last / "trainer.json", [key], value)
    seal(last)
    assert answer(damaged, capsys, "resume") == 2


def test_the_state_of_other_optimizers(damaged: Path, capsys: Capture) -> None:
    """Tensors by other names and of other shapes, and weights of another model."""
    last = damaged / "checkpoints" / "last"
    stored = {name: load_file(last / name) for name in ("trainer.safetensors", WEIGHTS)}
    state, weights = stored["trainer.safetensors"], stored[WEIGHTS]
    first = next(iter(state))
    renamed = {f"9{name}": tensor for name, tensor in state.items()}
    wider = {name: torch.cat([tensor, tensor]) for name, tensor in weights.items()}
    scalar = {name: tensor.reshape(-1)[0] for name, tensor in weights.items()}
    fewer = dict(list(weights.items())[1:])
    for name, tensors in (
        ("trainer.safetensors", renamed),
        ("trainer.safetensors", state | {first: torch.zeros(3)}),
        ("trainer.safetensors", {name: t for name, t in state.items() if not name.endswith("sq")}),
        ("trainer.safetensors", state | {"text": torch.zeros(3)}),
        (WEIGHTS, wider),
        (WEIGHTS, scalar),
        (WEIGHTS, fewer),
    ):
        save_file(tensors, last / name)
        seal(last)
        assert answer(damaged, capsys, "resume") == 2
        save_file(stored[name], last / name)
    seal(last)
    assert answer(damaged, capsys, "resume") == 0


def damage_each_value(folder: Path, name: str, depth: int) -> Iterator[str]:
    """Every key with every wrong value, one after the other; the file is as it was at the end."""
    path = folder / name
    content = path.read_bytes()
    places = keys_of(json.loads(content), depth)
    for number, (keys, value) in enumerate(itertools.product(places, VALUES)):
        if len(places) > 25 and number % 3:  # every third; each key and each value still comes
            continue
        set_value(path, keys, value)
        yield f"{name}: {'.'.join(keys)} = {value!r}"
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "depth", "verbs"),
    [
        ("environment.json", 2, ["runs"]),
        ("evaluation.json", 3, ["runs"]),
        ("checkpoints/best/complete.json", 1, ["runs", "generate"]),
    ],
)
def test_wrong_values(
    damaged: Path, capsys: Capture, name: str, depth: int, verbs: list[str]
) -> None:
    for what in damage_each_value(damaged, name, depth):
        for verb in verbs:
            try:
                code = answer(damaged, capsys, verb)
            except AssertionError as error:
                raise AssertionError(f"{what}, {verb}: {error}") from error
            assert code == 0 or verb != "runs", what


def test_a_process_of_its_own_says_one_sentence(damaged: Path) -> None:
    (damaged / "checkpoints" / "last" / "trainer.json").write_bytes(NOISE)
    done = lumenspark("resume", damaged.name)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "trainer.json was truncated or altered" in done.stderr
