"""docs/design.md names files and functions that exist."""

import re

from documentation import ROOT

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "lumenspark"


def test_files_and_functions_exist() -> None:
    spans = re.findall(r"`([\w./]+?(?:\.py|/))(?::(\w+))?`", DESIGN)
    assert len(spans) > 50
    for path, name in spans:
        if "NAME" in path:
            continue
        file = next((base / path for base in (PACKAGE, ROOT) if (base / path).exists()), None)
        assert file is not None, path
        if name:
            text = file.read_text(encoding="utf-8")
            assert re.search(rf"^ *(?:def|class) {name}\b", text, flags=re.MULTILINE), (path, name)


def test_every_folder_of_the_package_is_named() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= set(re.findall(r"`(\w+)/`", DESIGN))
