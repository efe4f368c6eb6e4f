"""The names of ``import lumenspark``: at run time, in an editor and for a type checker."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lumenspark

SOURCE = Path(lumenspark.__file__)


@pytest.mark.parametrize("name", lumenspark.__all__)
def test_every_public_name_resolves_on_first_use(name: str) -> None:
    assert name in dir(lumenspark)
    assert getattr(lumenspark, name) is getattr(lumenspark, name)


def test_a_type_checker_sees_the_names_that_exist_at_run_time() -> None:
    [checked] = (
        node
        for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: f"{node.module}"
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen.pop("inspect") == "lumenspark"
    assert seen == lumenspark._HOME
    assert set(lumenspark.__all__) == {*seen, "inspect", "__version__"}
    assert SOURCE.with_name("py.typed").is_file()


def test_the_subpackage_for_inspection_needs_no_import_of_its_own() -> None:
    program = (
        "import sys, lumenspark\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "print(lumenspark.inspect.zero.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "zero\n", done.stderr


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'lumenspark' has no attribute 'lod'"):
        lumenspark.lod  # noqa: B018


PROGRAM = """
import lumenspark

model, tokenizer = lumenspark.load("latest")
reveal_type(model)
reveal_type(lumenspark.load)
reveal_type(lumenspark.train("lumiere-tiny", train={"steps": 100}))
reveal_type(model.config)
reveal_type(lumenspark.trace(model, "The list"))
with lumenspark.patch(model, {"blocks.0.attention.heads[0]": lumenspark.inspect.zero}):
    print(model.generate("The list", max_new_tokens=4))
lumenspark.load("latest", divice="cpu")
lumenspark.lod("latest")
lumenspark.inspect.zeros
"""
# What transformers and torch say of themselves is not the subject, and takes a minute to read.
SETTINGS = """
[mypy]
[mypy-transformers.*,torch.*,tokenizers.*,safetensors.*,numpy.*,pydantic.*,rich.*,huggingface_hub.*]
follow_imports = skip
ignore_missing_imports = True
"""


@pytest.mark.slow
def test_a_program_of_a_user_is_type_checked(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "program.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(SOURCE.parents[1]), "PATH": "/usr/bin:/bin"},
    )
    revealed = [line.partition('is "')[2] for line in done.stdout.splitlines() if "note: R" in line]
    assert len(revealed) == 5, done.stdout + done.stderr
    families = "LumiereForCausalLM | lumenspark.models.modeling_lumenspark.LumensparkForCausalLM"
    assert revealed[0] == f'lumenspark.models.modeling_lumiere.{families}"'
    assert "checkpoint: str =" in revealed[1]
    assert revealed[2] == 'lumenspark.runs.run.Run"'
    assert revealed[4] == 'lumenspark.inspect.trace.Trace"'
    # Of an installed package mypy reports no errors; of one on MYPYPATH it does.
    errors = [line for line in done.stdout.splitlines() if re.match(r"program.py:\d+: error", line)]
    assert len(errors) == 3, errors
    assert 'Unexpected keyword argument "divice" for "load"' in errors[0]
    assert 'Module has no attribute "lod"; maybe "load"?' in errors[1]
    assert 'Module has no attribute "zeros"; maybe "zero"?' in errors[2]
