"""Nothing that lies in a model folder is run, whatever it says, unless the user trusts its code.

Each trap is code, a pickle, a template or a setting that would leave a file behind if anything of
it was run or unpickled. Every command that reads a folder reads each of them.
"""

import io
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_folders import CONTEXT, FAMILIES, TEXT, WEIGHTS, save_family

import lumenspark
from lumenspark.cli import run
from lumenspark.errors import UserError

Trap = Callable[[Path, Path], None]  # the folder, and the file that must not appear

CODE = """import pathlib
pathlib.Path({marker!r}).touch()
from transformers import (
    GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
)
class Config(LlamaConfig):
    model_type = "trap"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
def generate(*args, **kwargs):
    pathlib.Path({marker!r}).touch()
"""


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.marker), "w")


def code(name: str) -> Trap:
    """A file of Python code."""

    def lay(folder: Path, marker: Path) -> None:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(CODE.format(marker=str(marker)))

    return lay


def setting(file: str, **values: Any) -> Trap:
    """Keys of a settings file, with code beside it that they may mean."""

    def lay(folder: Path, marker: Path) -> None:
        for name in ("trap.py", "modeling_compressed.py", "custom_generate/generate.py"):
            code(name)(folder, marker)
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | values))

    return lay


def pickled(name: str, alone: bool) -> Trap:
    """A pickle, as torch writes it, beside the weights or in their place."""

    def lay(folder: Path, marker: Path) -> None:
        content = pickle.dumps(_Payload(marker))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
        (folder / name).write_bytes(content if name.endswith("pkl") else packed.getvalue())
        if alone:
            (folder / WEIGHTS).unlink()

    return lay


def text(name: str, content: str) -> Trap:
    def lay(folder: Path, marker: Path) -> None:
        (folder / name).write_text(content.replace("MARKER", str(marker)))

    return lay


def all_of(*traps: Trap) -> Trap:
    def lay(folder: Path, marker: Path) -> None:
        for trap in traps:
            trap(folder, marker)

    return lay


def index_of_pickles(folder: Path, marker: Path) -> None:
    pickled("pytorch_model-1.bin", alone=True)(folder, marker)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model-1.bin"}}
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (folder / name).write_text(json.dumps(index))


TEMPLATE = (
    "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
    "{{ c(['touch', 'MARKER']) }}{% endif %}{% endfor %}"
    "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}"
    "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}"
)
YAML = "!!python/object/apply:os.system ['touch MARKER']\n"
AUTO = {
    "AutoConfig": "trap.Config",
    "AutoModel": "trap.Model",
    "AutoModelForCausalLM": "trap.Model",
    "AutoTokenizer": ["trap.Tokenizer", "trap.Tokenizer"],
}
ELSEWHERE = {name: f"someone/else--{value}" for name, value in AUTO.items() if "." in value}
RANKS = {"lm_head": 3}
TRAPS: dict[str, Trap] = {
    "auto_map in config.json": setting("config.json", auto_map=AUTO),
    "auto_map and an unknown model": setting("config.json", auto_map=AUTO, model_type="trap"),
    "auto_map and no model_type": setting("config.json", auto_map=AUTO, model_type=None),
    "auto_map that leads elsewhere": setting("config.json", auto_map=ELSEWHERE, model_type="trap"),
    "auto_map of a path": setting(
        "config.json", auto_map={"AutoConfig": "../trap.Config"}, model_type="trap"
    ),
    "auto_map in tokenizer_config.json": setting("tokenizer_config.json", auto_map=AUTO),
    "an unknown tokenizer": setting(
        "tokenizer_config.json", auto_map=AUTO, tokenizer_class="Tokenizer"
    ),
    "a tokenizer in the old way": setting(
        "tokenizer_config.json", auto_map=["trap.Tokenizer", "trap.Tokenizer"]
    ),
    "auto_map in generation_config.json": setting("generation_config.json", auto_map=AUTO),
    "custom_generate": setting("generation_config.json", custom_generate="."),
    "custom_generate by a path": setting(
        "generation_config.json", custom_generate="custom_generate", trust_remote_code=True
    ),
    "trust in config.json": setting(
        "config.json", auto_map=AUTO, model_type="trap", trust_remote_code=True
    ),
    "trust in tokenizer_config.json": setting(
        "tokenizer_config.json", auto_map=AUTO, trust_remote_code=True
    ),
    **{
        f"compressed by {name}": setting(
            "config.json",
            module_ranks=RANKS,
            auto_map={"AutoModelForCausalLM": f"modeling_compressed.{name}"},
        )
        for name in (
            "os",
            "transformers",
            "low_rank_class",
            "model_class",
            "apply_ranks",
            "Any",
            "PreTrainedModel",
            "GPT2LMHeadModel",
            "__builtins__",
            "__getattr__",
            "Model",
            "pipeline",
            "",
        )
    },
    "many ranks": setting("config.json", module_ranks={f"x.{i}": 2**62 for i in range(1000)}),
    "architectures": setting("config.json", architectures=["trap.Model"], auto_map=AUTO),
    "_name_or_path": setting("config.json", _name_or_path="trap.py", auto_map=AUTO),
    "a kernel of the hub": setting("config.json", attn_implementation="someone/kernel"),
    "a kernel in the folder": all_of(
        setting("config.json", attn_implementation="./kernel", use_kernels=True),
        code("kernel/__init__.py"),
    ),
    "experts of the hub": setting("config.json", experts_implementation="someone/kernel"),
    "a quantizer": setting(
        "config.json", quantization_config={"quant_method": "trap", "modules": "trap.Model"}
    ),
    "an adapter": setting("adapter_config.json", base_model_name_or_path=".", peft_type="LORA"),
    "an adapter's code": setting(
        "adapter_config.json",
        auto_mapping={"base_model_class": "Model", "parent_library": "trap"},
        peft_type="LORA",
    ),
    "a processor": setting("processor_config.json", auto_map=AUTO),
    "tokenizer_class of code": setting("tokenizer_config.json", tokenizer_class="trap.Tokenizer"),
    "tokenizer_class of a module": setting("tokenizer_config.json", tokenizer_class="os.system"),
    **{
        f"{name} {'alone' if alone else 'beside the weights'}": pickled(name, alone)
        for alone in (True, False)
        for name in (
            "pytorch_model.bin",
            "model.pt",
            "model.pkl",
            "adapter_model.bin",
            "training_args.bin",
            "optimizer.pt",
        )
    },
    "an index of pickles": index_of_pickles,
    **{
        f"the file {name}": code(name)
        for name in (
            "__init__.py",
            "__main__.py",
            "tokenizer.py",
            "model.py",
            "config.py",
            "conftest.py",
            "sitecustomize.py",
            "usercustomize.py",
            "setup.py",
            "torch.py",
            "transformers.py",
            "modeling_lumiere.py",
            "configuration_lumiere.py",
            "modeling_llama.py",
            "lumenspark/__init__.py",
        )
    },
    "a library": text("_C.so", "\x7fELF"),
    "a path file": text("trap.pth", "import pathlib; pathlib.Path('MARKER').touch()\n"),
    "a chat template": text("chat_template.jinja", TEMPLATE),
    "a chat template in settings": lambda folder, marker: setting(
        "tokenizer_config.json", chat_template=TEMPLATE.replace("MARKER", str(marker))
    )(folder, marker),
    "requirements": text("requirements.txt", "--index-url http://127.0.0.1:9\ntrap\n"),
    "tags of YAML in README.md": text("README.md", f"---\nlicense: {YAML}---\n"),
    "a link to a secret": lambda folder, marker: (folder / "added_tokens.json").symlink_to(
        "/etc/passwd"
    ),
}
RECIPES = {
    "recipe.yaml": YAML,
    "recipe of a tag": f"name: {YAML}",
    "recipe of a module": "data: !!python/name:os.system\n",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("originals")
    return {family: save_family(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "test.txt").write_text(TEXT * 3)
    return folder


@pytest.mark.parametrize("name", TRAPS)
def test_no_command_runs_what_lies_in_a_folder(
    name: str,
    originals: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Where a library asks whether to run the code, the answer is yes.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"y\n" * 100)))
    family = list(FAMILIES)[list(TRAPS).index(name) % len(FAMILIES)]
    folder, marker, out = tmp_path / "model", tmp_path / "marker", tmp_path / "out"
    shutil.copytree(originals[family], folder)
    TRAPS[name](folder, marker)
    monkeypatch.chdir(folder)  # as somebody does who has just cloned it
    paths, path_entries = set(sys.path), list(sys.path)
    for arguments in (
        ["generate", ".", "the lamp", "--max-new-tokens", "2"],
        ["evaluate", str(folder), "--data", str(data)],
        ["inspect", ".", "the lamp", "-o", str(tmp_path / "page.html")],
        ["compress", ".", str(out), "--rank", "2"],
        ["convert", ".", str(tmp_path / "new")],
    ):
        assert run(arguments) in (0, 2), capsys.readouterr().err
        assert not marker.exists(), arguments
    capsys.readouterr()
    try:
        model, _ = lumenspark.load(str(folder))
    except UserError:
        model = None
    if model is not None and family.startswith("lum"):
        model.generate(text="the lamp", max_new_tokens=2)
    assert not marker.exists()
    assert set(sys.path) == paths, path_entries


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_runs_anything(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, recipe = tmp_path / "marker", tmp_path / "recipe.yaml"
    recipe.write_text(RECIPES[name].replace("MARKER", str(marker)))
    assert run(["train", str(recipe), "--dry-run"]) == 2
    assert not marker.exists()


def test_the_traps_work(originals: dict[str, Path], tmp_path: Path) -> None:
    """Else the tests above could not fail: with trust the code runs, unpickled the pickle does."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    shutil.copytree(originals["llama"], folder)
    TRAPS["auto_map and an unknown model"](folder, marker)
    assert (
        lumenspark.load(str(folder), trust_remote_code=True)[0]
        .config.to_dict()
        .get("max_position_embeddings")
        == CONTEXT
    )
    assert marker.exists()
    marker.unlink()
    pickle.loads(pickle.dumps(_Payload(marker))).close()
    assert marker.exists()
