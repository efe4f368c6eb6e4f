"""Names and files from outside in a run: its card has the structure of any other, or a sentence."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from lumenspark.cli import run as lumenspark
from lumenspark.data.tokenizer import train_tokenizer
from lumenspark.errors import UserError
from lumenspark.evaluation.results import Evaluation, describe, read_evaluations, store
from lumenspark.files import file_digest, weights_digest
from lumenspark.model_card.card import build_card, check_card, update_card, write_card

NAMES = {
    "backtick": "my `best` texts",
    "bar": "a | b | c",
    "backslash and bar": "a\\|b\\\\|c",
    "line break": "x\n\n# Injected\n\ntext",
    "carriage return": "x\r\r## Injected",
    "unicode breaks": "x\u2028# a\u2029# b\x85# c\x0b# d",
    "fence": "x\n```\n# Injected\n```",
    "long fence": "````\n`````\n# Injected",
    "yaml": "x\n---\nlicense: other\n---\n# Injected",
    "yaml values": "[a, b]: {c} # d",
    "html": "<script>alert(1)</script><!-- x",
    "link": "[x](https://example.org) ![y](z)",
    "address": "https://example.org/www.example.org",
    "emphasis": "**bold** _it_ ~~gone~~",
    "table": "x |\n|---|\n| y |",
    "entity": "&lt;b&gt; &#60;",
    "terminal": "\x1b[31mred\x1b[0m\x07",
    "direction": "a\u202egnp.exe",
    "half a pair": "caf\udce9",
    "closing line": "using model checkpoint 'last' from run 'x'. This model card was generated on",
    "jinja": "{{ 7 * 7 }} {% raw %}",
    "space": " ",
    "long": "n" * 5000,
}


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def seal(folder: Path) -> None:
    marker = folder / "complete.json"
    marker.unlink(missing_ok=True)
    digests = {path.name: file_digest(path) for path in folder.iterdir()}
    marker.write_text(json.dumps({"step": 40, "files": digests}))


def an_evaluation(**changes: Any) -> Evaluation:
    figures = {
        "protocol": "strided",
        "data": "/texts/kettles",
        "split": "test",
        "layout": "plain",
        "data_digest": "0" * 64,
        "hub_id": None,
        "revision": None,
        "model_revision": None,
        "loss": 4.5,
        "perplexity": 90.0,
        "word_perplexity": 1000.0,
        "bits_per_byte": 2.5,
        "targets": 100,
        "bytes": 200,
        "words": 40,
        "raw_bytes": 200,
        "documents": None,
        "windows": 5,
        "context": 48,
        "stride": 24,
        "dtype": "float32",
        "seconds": 1.0,
        "notes": ["a note"],
    }
    return Evaluation(**(figures | changes))


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with figures; a copy of it is what the tests change."""
    run = tmp_path_factory.mktemp("runs") / "k3v9x2mq"
    folder = run / "checkpoints" / "best"
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=300, num_attention_heads=2, pad_token_id=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    FastTokenizer(
        tokenizer_object=train_tokenizer(["some text"], 300), pad_token="<|pad|>"
    ).save_pretrained(folder)
    seal(folder)
    recipe = {
        "name": "tiny",
        "data": "/texts/kettles",
        "seed": 3,
        "device": "cpu",
        "init_from": "/models/start",
        "corpus": {"headings": "drop", "config": "small"},
        "tokenizer": {"name": None},
        "model": {"family": "lumiere"},
        "optim": {"name": "muon"},
        "train": {"steps": 40, "prompt": "The film"},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    corpus = {
        "name": "/texts/kettles",
        "digest": "0" * 64,
        "layout": "plain",
        "hub_id": None,
        "revision": "b08601e",
        "license": "CC BY-SA",
        "language": "en",
        "tokens": {"train": 1234},
        "documents": {"train": 2},
    }
    versions = dict.fromkeys(("lumenspark", "torch", "transformers", "python"), "1.2")
    hardware = {"processor": "a processor", "cores": 2, "threads": 2}
    started = {"started_at": "2026-02-03T04:05:06+00:00"}
    environment = versions | hardware | started | {"corpus": corpus}
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "metrics.jsonl").write_text('{"step": 40, "tokens": 70, "loss": 4.4, "seconds": 9.0}\n')
    weights = weights_digest(folder)
    for protocol in ("strided", "card", "lm_eval"):
        figures = an_evaluation(protocol=protocol)
        store(run, figures, checkpoint="best", step=40, command="x", weights=weights)
    return run


@pytest.fixture
def run(plain_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_run, tmp_path / plain_run.name))


def in_corpus(key: str) -> Callable[[Path, str], None]:
    def put(run: Path, name: str) -> None:
        edit_json(run / "environment.json", lambda found: found["corpus"].update({key: name}))

    return put


def in_environment(key: str) -> Callable[[Path, str], None]:
    return lambda run, name: edit_json(
        run / "environment.json", lambda found: found.update({key: name})
    )


def in_recipe(*keys: str) -> Callable[[Path, str], None]:
    def put(run: Path, name: str) -> None:
        content = yaml.safe_load((run / "recipe.yaml").read_text())
        part = content
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = name
        (run / "recipe.yaml").write_text(yaml.safe_dump(content))

    return put


def in_config(key: str) -> Callable[[Path, str], None]:
    def put(run: Path, name: str) -> None:
        edit_json(run / "checkpoints/best/config.json", lambda found: found.update({key: name}))
        seal(run / "checkpoints/best")

    return put


def in_tokenizer(change: Callable[[Any, str], None]) -> Callable[[Path, str], None]:
    def put(run: Path, name: str) -> None:
        edit_json(run / "checkpoints/best/tokenizer.json", lambda found: change(found, name))
        seal(run / "checkpoints/best")

    return put


def in_evaluations(key: str, wrap: Callable[[str], Any] = str) -> Callable[[Path, str], None]:
    def put(run: Path, name: str) -> None:
        def change(content: Any) -> None:
            for entry in content["evaluations"]:
                entry[key] = wrap(name)

        edit_json(run / "evaluation.json", change)

    return put


PLACES: dict[str, Callable[[Path, str], None]] = {
    **{f"corpus {key}": in_corpus(key) for key in ("name", "license", "language", "digest")},
    "corpus hub_id": in_corpus("hub_id"),
    "corpus revision": in_corpus("revision"),
    "python": in_environment("python"),
    "torch": in_environment("torch"),
    "processor": in_environment("processor"),
    "recipe name": in_recipe("name"),
    "init_from": in_recipe("init_from"),
    "device": in_recipe("device"),
    "optimizer": in_recipe("optim", "name"),
    "corpus config": in_recipe("corpus", "config"),
    "tokenizer name": in_recipe("tokenizer", "name"),
    "prompt": in_recipe("train", "prompt"),
    "model_type": in_config("model_type"),
    "layers": in_config("num_hidden_layers"),
    "projection": lambda run, name: (
        in_config("k")(run, name),
        in_config("window")(run, name),
        in_config("projection")(run, name),
    ),
    "special token": in_tokenizer(
        lambda found, name: found["added_tokens"][2].update({"content": name})
    ),
    "tokenizer type": in_tokenizer(lambda found, name: found["model"].update({"type": name})),
    "normalizer": in_tokenizer(lambda found, name: found["normalizer"].update({"type": name})),
    "evaluation data": in_evaluations("data"),
    "evaluation split": in_evaluations("split"),
    "evaluation revision": in_evaluations("revision"),
    "evaluation note": in_evaluations("notes", lambda name: [name]),
}


def structure(card: str) -> list[tuple[str, str, int]]:
    """The blocks of a card, and the rows and cells of its tables; its header apart."""
    body = card.split("\n---\n", 1)[1]
    return [(t.type, t.tag, t.level) for t in MarkdownIt().enable("table").parse(body)]


def markup(card: str) -> set[str]:
    """What the lines of a card hold besides text, code, bold and the links that it always has."""
    body = card.split("\n---\n", 1)[1]
    blocks = MarkdownIt().enable("table").parse(body)
    inside = [token for block in blocks for token in block.children or ()]
    return {token.type for token in inside} - {"text", "code_inline", "strong_open", "strong_close"}


def header(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("\n---\n", 1)[0].removeprefix("---\n")))


WORST = "a | b \\| `c`\n\n# d\n```\n---\n<script>[e](f)\x1b[31m\u2028# g"


def check_same_structure(harmless: Path, hostile: Path) -> None:
    expected, found = str(build_card(harmless)), write_card(hostile).read_text(encoding="utf-8")
    assert structure(found) == structure(expected)
    assert markup(found) <= markup(expected)
    assert header(found).keys() == header(expected).keys()
    assert header(found)["license"] == "mit"
    assert not [char for char in found if not char.isprintable() and char != "\n"]
    assert check_card(hostile) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hub", [False, True])
def test_a_name_in_all_places_at_once(
    plain_run: Path, tmp_path: Path, name: str, hub: bool
) -> None:
    runs = []
    for written in ("harmless", NAMES[name]):
        run = Path(shutil.copytree(plain_run, tmp_path / str(len(runs)) / plain_run.name))
        for place, put in PLACES.items():
            if hub or place != "corpus hub_id":
                put(run, written)
        runs.append(run)
    check_same_structure(*runs)


@pytest.mark.parametrize("place", PLACES)
def test_the_worst_name_in_each_place(plain_run: Path, tmp_path: Path, place: str) -> None:
    runs = []
    for written in ("harmless", WORST):
        runs.append(Path(shutil.copytree(plain_run, tmp_path / str(len(runs)) / plain_run.name)))
        PLACES[place](runs[-1], written)
    check_same_structure(*runs)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "long"])
def test_a_run_by_any_name(plain_run: Path, tmp_path: Path, name: str) -> None:
    folder = os.fsdecode(os.fsencode(NAMES[name].replace("/", "-")[:200]))
    run = Path(shutil.copytree(plain_run, tmp_path / folder))
    card = write_card(run).read_text(encoding="utf-8")
    assert structure(card) == structure(str(build_card(plain_run)))
    assert check_card(run) == []
    assert lumenspark(["card", str(run), "--check"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_lines_of_their_own(name: str) -> None:
    lines = describe(an_evaluation(data=NAMES[name])).split("\n")
    assert len(lines) == len(describe(an_evaluation()).split("\n"))
    assert all(line.isprintable() for line in lines)


BAD_JSON = {
    "empty": b"",
    "cut": b'{"evaluations": [{"data": "x"',
    "not utf-8": b'{"evaluations": ["\xff\xfe"]}',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "deep": b"[" * 200_000,
    "digits": b'{"evaluations": ' + b"9" * 6000 + b"}",
    "other keys": b'{"evaluation": []}',
    "numbers in place of entries": b'{"evaluations": [1, 2]}',
    "entries without keys": b'{"evaluations": [{}]}',
    "an object of entries": b'{"evaluations": {"a": 1}}',
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("content", BAD_JSON)
@pytest.mark.parametrize(
    "file", ["evaluation.json", "environment.json", "recipe.yaml", "metrics.jsonl"]
)
def test_damaged_files_of_a_run(
    run: Path, file: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_card(run)
    (run / file).write_bytes(BAD_JSON[content] + b"\n" * (file == "metrics.jsonl"))
    for arguments in (["card", str(run)], ["card", str(run), "--check"]):
        code = lumenspark(arguments)
        said = capsys.readouterr().err
        if file == "metrics.jsonl" and code == 0:
            continue  # a line of no meaning is passed over
        assert code == 2, (content, said)
        assert said.count("\n") == 1
        assert len(said) < 1000


@pytest.mark.parametrize("content", BAD_JSON)
@pytest.mark.parametrize("file", ["complete.json", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("sealed", [True, False])
def test_damaged_files_of_a_checkpoint(
    run: Path, file: str, content: str, sealed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints" / "best"
    (folder / file).write_bytes(BAD_JSON[content])
    if sealed and file != "complete.json":
        seal(folder)
    assert lumenspark(["card", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 1000
    assert not (run / "README.md").exists()


BAD_VALUES = [None, True, "x", -1, 10**30, 1e308, [], {}, [[]], {"a": {}}, "\ud800"]


@pytest.mark.parametrize("key", [*sorted(an_evaluation().to_dict()), "checkpoint", "finished_at"])
def test_wrong_values_in_figures(run: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A card, or a sentence; never anything else."""
    for value in BAD_VALUES:
        in_evaluations(key, lambda _, value=value: value)(run, "")
        assert lumenspark(["card", str(run)]) in {0, 2}, (key, value)
        assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"\x80" * 1000])
def test_a_card_that_is_not_text(
    run: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "README.md").write_bytes(content)
    assert lumenspark(["card", str(run), "--check"]) == 2
    assert len(capsys.readouterr().err) < 1000
    if content:
        with pytest.raises(UserError, match=r"README\.md cannot be read"):
            update_card(run, "best")
    assert (run / "README.md").read_bytes() == content
    write_card(run)
    assert check_card(run) == []


def test_damaged_figures_are_not_written_over(run: Path) -> None:
    for content in BAD_JSON.values():
        (run / "evaluation.json").write_bytes(content)
        with pytest.raises(UserError, match=r"evaluation\.json cannot be read"):
            read_evaluations(run)
        with pytest.raises(UserError, match=r"evaluation\.json cannot be read"):
            store(run, an_evaluation(), checkpoint="best", step=1, command="x")
        assert (run / "evaluation.json").read_bytes() == content
