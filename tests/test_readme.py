"""README's code runs as printed, and its command lines name what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

from lumenspark.cli import VERBS
from lumenspark.training.recipe import recipe_names

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_runs_as_printed(tmp_path: Path) -> None:
    (example,) = (block for block in blocks("python") if "import lumenspark" in block)
    done = subprocess.run(
        [sys.executable, "-c", example],
        env=os.environ | {"LUMENSPARK_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("The list") for line in lines)
    assert lines[-1] == "torch.Size([1, 2, 3, 3]) torch.Size([1, 3, 48])"


def test_the_commands_name_verbs_and_presets_that_exist() -> None:
    commands = re.findall(r"^lumenspark (\S+) ?(\S*)", "\n".join(blocks("bash")), flags=re.M)
    assert {verb for verb, _ in commands} == set(VERBS) - {"prepare"}
    assert {name for verb, name in commands if verb == "train"} <= set(recipe_names())
