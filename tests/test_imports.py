"""Dependencies point one way. Read from the source, so that imports inside functions count too."""

import ast
from pathlib import Path

import pytest

import lumenspark

ROOT = Path(lumenspark.__file__).parent
# From the top to the bottom: a part imports its own files and what stands in lower rows.
LAYERS = [
    ["cli"],
    ["api"],
    ["records", "sweeps"],
    ["pipeline", "compression", "upload"],
    ["final_report"],
    ["training"],
    ["model_card", "inspect", "generation"],
    ["evaluation"],
    ["loading", "resolve"],
    ["runs"],
    ["hub", "memory", "model_folder", "device", "quiet", "reporter", "data", "recipe"],
    ["earlier_names"],
    ["files"],
    ["errors"],
    ["models"],
]
ROWS = {part: row for row, parts in enumerate(LAYERS) for part in parts}
DISTRIBUTED = {"training/parallel.py", "training/distributed_checkpoint.py"}


def files_of(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]


def imported(file: Path) -> set[str]:
    """Whole names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def parts_of_ours(file: Path) -> set[str]:
    """The parts of lumenspark that a file imports: ``data``, ``recipe``, …"""
    names = {name.split(".")[1] for name in imported(file) if name.startswith("lumenspark.")}
    return {name for name in names if name in ROWS}


def test_every_file_has_a_row() -> None:
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__main__", "__pycache__", "py", "recipes"} == set(ROWS)


@pytest.mark.parametrize("part", ROWS)
def test_imports_point_down(part: str) -> None:
    for file in files_of(part):
        for other in parts_of_ours(file) - {part}:
            same_row_below = ROWS[other] == ROWS[part]
            assert ROWS[other] > ROWS[part] or same_row_below, f"{file} imports {other}"


@pytest.mark.parametrize("row", LAYERS, ids=[" ".join(row) for row in LAYERS])
def test_parts_of_one_row_do_not_import_each_other_in_a_circle(row: list[str]) -> None:
    edges = {part: {o for f in files_of(part) for o in parts_of_ours(f)} & set(row) for part in row}
    left = {part: others - {part} for part, others in edges.items()}
    while free := [part for part, others in left.items() if not others & set(left)]:
        for part in free:
            del left[part]
    assert not left, f"in a circle: {left}"


@pytest.mark.parametrize("part", ["data", "runs", "recipe", "generation", "evaluation", "inspect"])
def test_what_training_uses_does_not_import_training(part: str) -> None:
    for file in files_of(part):
        assert "training" not in parts_of_ours(file), file


def test_models_import_nothing_of_ours_and_each_other_flatly() -> None:
    for file in files_of("models"):
        assert not any(name.split(".")[0] == "lumenspark" for name in imported(file)), file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{file}: {ast.unparse(node)}"
                assert "." not in (node.module or ""), f"{file}: {ast.unparse(node)}"


def test_one_file_knows_of_several_processes() -> None:
    for file in ROOT.rglob("*.py"):
        if file.relative_to(ROOT).as_posix() not in DISTRIBUTED:
            names = imported(file)
            assert not any(name.startswith("torch.distributed") for name in names), file
