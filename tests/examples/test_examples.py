"""The programs and the notebook in examples/ run."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from documentation import ROOT, train_briefly
from documentation import run as run_program

import lumenspark

EXAMPLES = ROOT / "examples"


def run(program: str, *arguments: str) -> str:
    """What an example prints."""
    return run_program([sys.executable, str(EXAMPLES / program), *arguments], {}, ROOT)


@pytest.mark.slow
def test_training_from_scratch() -> None:
    program = EXAMPLES / "train_from_scratch.py"
    assert len(program.read_text(encoding="utf-8").splitlines()) <= 150
    printed = run(program.name, "--steps", "20", "--prompt", "The list")
    losses = [float(loss) for loss in re.findall(r"^step .* loss ([\d.]+)", printed, re.MULTILINE)]
    assert losses[-1] < losses[0]
    assert re.search(r"^validation loss [\d.]+ nats per token", printed, re.MULTILINE)
    assert printed[printed.index("\n\n") :].strip().startswith("The list")


@pytest.mark.slow
def test_fine_tuning(trained: Path, text_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    printed = run("finetune.py", str(trained), str(text_folder), str(out), "--steps", "20")
    before, after = map(float, re.findall(r"validation loss \w+ ([\d.]+)", printed))
    assert after < before
    model, tokenizer = lumenspark.load(str(out))
    assert model.generate(text="The", tokenizer=tokenizer, max_new_tokens=4).startswith("The")


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, cell by cell."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def run_cell(code: str, names: dict[str, object]) -> object:
    """Run a cell; its value, where the last line is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


@pytest.mark.slow
def test_the_notebook_runs_cell_by_cell(own_runs: Path) -> None:
    """In one namespace, from the first to the last, and each value at a cell's end can be shown."""
    train_briefly(own_runs)
    names: dict[str, object] = {}
    for code in cells(EXAMPLES / "inspect.ipynb"):
        value = run_cell(code, names)
        html = getattr(value, "_repr_html_", None)
        assert html is None or html().lstrip().startswith("<")


def test_the_notebook_has_no_outputs() -> None:
    content = json.loads((EXAMPLES / "inspect.ipynb").read_text(encoding="utf-8"))
    for cell in content["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
