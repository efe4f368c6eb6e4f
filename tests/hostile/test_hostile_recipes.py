"""Recipes that nobody would write: each is a recipe, or one sentence of bounded length."""
# ruff: noqa: E501 (tables of values)

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumenspark.cli.parsing import parse_recipe
from lumenspark.errors import UserError
from lumenspark.recipe import (
    FAMILIES,
    Recipe,
    dump_recipe,
    load_recipe,
    parse_duration,
    recipe_from,
    recipe_names,
    with_overrides,
)
from lumenspark.training.scaling import parse_size

LONGEST_MESSAGE = 700  # characters


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


VALUES: list[Any] = [
    *(None, True, False, "", " ", "\n", "\0", "\ud800", "é", "٣", "x" * 100_000, "null", "~nobody"),
    *(0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**12, 10**400, -(10**400), 10**5000),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, float("inf"), -float("inf"), float("nan"), 1e-400),
    *([], [1], {}, {"a": 1}, {1: 2}, {None: None}, {"family": []}, [[]] * 50, b"\xff", b""),
    *("1", "1.5", "inf", "nan", "1e3", "0x10", "auto", "on", "yes", "AUTO", "\u202e", "a\nb"),
    *((1, 2), {1, 2}, 1 + 2j, object(), range(3), cyclic(), Path("x"), print),
]


def keys(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")


def check(make: Callable[[], Recipe], rewrite: bool = True) -> Recipe | None:
    """The recipe that ``make`` gives, which can be written and read again; None where refused."""
    recipe, message = None, ""
    try:
        recipe = make()
    except UserError as error:
        message = str(error)
    if recipe is None:
        assert 0 < len(message) < LONGEST_MESSAGE
        assert message.isprintable()
        return None
    if rewrite:
        assert recipe_from(yaml.safe_load(dump_recipe(recipe)), "its own file") == recipe
    return recipe


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_with_every_value(family: str) -> None:
    """5,000 recipes, in which one key has a value that its option was not made for."""
    base = Recipe(model=FAMILIES[family]())
    cases = 0
    for key in keys(asdict(base)):
        for value in VALUES:
            check(partial(with_overrides, base, {key: value}), rewrite=key == "name")
            cases += 1
    assert cases > 2500


WORDS = ["", "nan", "inf", "-1", "1e400", "9" * 5000, "None", "[]", "\0", "x" * 1000, "٣"]


def test_every_key_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    for number, key in enumerate(keys(asdict(Recipe()))):
        option = f"--{key}={WORDS[number % len(WORDS)]}"
        try:
            parse_recipe("train", "about", [option])
        except UserError as error:
            assert len(str(error)) < LONGEST_MESSAGE  # noqa: PT017
        except SystemExit as ended:  # how the parser of options refuses
            assert ended.code == 2  # noqa: PT017
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_as_a_recipe(value: Any) -> None:
    check(lambda: recipe_from(value, "recipe"))


EVIL_YAML = [
    *("[" * 5000, "{a: " * 3000, "- " * 20_000, "&a [*a]", "&a {b: *a}", "*unknown", "? - a\n: b"),
    *("seed: 2024-13-45", "seed: " + "9" * 6000, "seed: 0x" + "f" * 6000, "seed: 1:99:99:99"),
    *("name: !!python/object/apply:os.system ['true']", "name: !!binary '*'", "name: !!float x"),
    *("seed: !!int ''", "seed: !!timestamp x", "a: !!set {b}", "a: !!omap [b]", "a: !!pairs [b]"),
    *("<<: 1", "<<: [1]", "<<: {seed: 1}", "a: <<", "=: 1", "---\n---\n", "%YAML 9.9\n---\n", "...", "\t"),
    *("name: \x07", "name: '\\ud800'", 'name: "\\ud800"', 'name: "\\x"', "\ufeffseed: 1", "seed: 1\0"),
    *("train: [steps]", "train: steps", "model: lumiere", "model: {family: {}}", "budget: [1m]"),
    *("budget: .inf", "budget: 1e400", "budget: " + "9" * 400 + "h", "budget: -1", "budget: 1h1"),
    *("optim: {muon_lr: .nan}", "optim: {muon_lr: .inf}", "optim: {warmup: -.inf}", "seed: .nan"),
    "a: &a ['x','x','x','x','x','x','x','x','x']\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)),
    "name: &a ['x','x','x','x','x','x','x','x','x']\nseed: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    "data: [" + ",".join(["*b"] * 9) + "]",
]  # fmt: skip


@pytest.mark.parametrize("text", EVIL_YAML, ids=lambda text: repr(text[:24]))
def test_files_that_are_made_to_break_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    if check(lambda: load_recipe(str(path))) is None:
        with pytest.raises(UserError, match=r"recipe\.yaml"):
            load_recipe(str(path))


PRESETS = [
    (Path(__file__).parents[2] / "src/lumenspark/recipes" / f"{name}.yaml").read_bytes()
    for name in recipe_names()
]
PIECES = [
    *(b"\0", b"\xff", b"\xfe\xff", b"\n", b"\t", b": ", b"- ", b"#", b"{", b"}", b"[", b"]", b"&a ", b"*a"),
    *(b"!!int ", b"!!python/none ", b"|", b">", b"'", b'"', b"%", b"@", b"`", b"? ", b"<<: ", b"9" * 5000),
    *(b"\r\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"null", b".nan", b"-.inf", b"1e999", b"0o7", b"yes", b"- " * 500),
]  # fmt: skip


def test_presets_with_random_damage(tmp_path: Path) -> None:
    """1,500 files, each a preset with some of it cut, repeated, moved or replaced."""
    chance = random.Random(0)
    path = tmp_path / "recipe.yaml"
    for _ in range(1500):
        data = bytearray(chance.choice(PRESETS))
        for _ in range(chance.randint(1, 4)):
            at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
            new = chance.choice([b"", bytes(data[at:to]) * 2, chance.choice(PIECES)])
            data[at : min(to, at + chance.choice([0, 1, 5, 200]))] = new
        path.write_bytes(data)
        check(lambda: load_recipe(str(path)))


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=20)
)
nested = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain, inner, max_size=4)
)
all_keys = sorted({*keys(asdict(Recipe())), *keys(asdict(Recipe(model=FAMILIES["lumenspark"]())))})


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(all_keys) | st.text(max_size=30), nested, max_size=5))
def test_random_overrides(overrides: dict[str, Any]) -> None:
    check(lambda: with_overrides(Recipe(), overrides))


@settings(max_examples=300, deadline=None)
@given(st.text() | st.from_regex(r"\A[\d.]{0,400}\s*[a-z]?\Z"))
def test_random_durations_and_sizes(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            value, message = parse(text), ""
        except UserError as error:
            value, message = 1.0, str(error)
        assert 0 < value < float("inf")
        assert len(message) < LONGEST_MESSAGE


@pytest.mark.parametrize("name", ["", "\0", "x" * 5000, "a/" * 3000, "~nobody", "\ud800", ".", "/"])
def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(UserError):
        load_recipe(name)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path)])
def test_paths_that_are_no_files(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        load_recipe(str(tmp_path / "recipe.yaml"))
