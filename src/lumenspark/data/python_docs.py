"""The built-in corpus ``python-docs``: documentation of the Python installation, about 2 MB.

A document is a topic of Python's help (``pydoc_data``), or the docstrings of a standard library
module, its classes and functions, in source order. Needs no network.
"""

import ast
import hashlib
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from lumenspark.data.cache_folder import cache_folder, writing_below
from lumenspark.data.documents import SHARES, Corpus, Piece, cut, in_split
from lumenspark.data.split_names import SPLITS
from lumenspark.files import remove_leftovers, write_file

FORMAT = 2  # increment when documents or file format change
SHORTEST = 40  # characters; "Return repr(self)." is not prose
_LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class PythonDocs(Corpus):
    """``python-docs``, split by the hash of each document."""

    name = "python-docs"
    layout = "plain"
    license = "PSF-2.0"
    language = "en"

    def __init__(self, cache: Path | None = None) -> None:
        self._folder = (cache or cache_folder()) / "python-docs"

    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def is_divided(self) -> bool:
        return True

    def digest(self) -> str:
        return _digest(self._texts)

    def size(self, split: str) -> int:
        return int(sum(map(len, self._texts)) * SHARES[split])

    def documents(self, split: str) -> Iterator[Piece]:
        for text in self._texts:
            yield from in_split(cut([text]), split)

    @cached_property
    def _texts(self) -> list[str]:
        # Cached, since parsing the standard library takes seconds. Build string and folder
        # identify the Python installation.
        library = Path(sysconfig.get_path("stdlib"))
        identity = f"{FORMAT}\n{sys.version}\n{library}"
        path = self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
        remove_leftovers(self._folder)
        texts = _read_cached(path) if path.is_file() else None
        if texts is None:
            texts = [*_topics(), *_docstrings(library)]
            with writing_below(self._folder):
                content = {"digest": _digest(texts), "texts": texts}
                write_file(path, json.dumps(content, ensure_ascii=False))
        return texts


def _read_cached(path: Path) -> list[str] | None:
    """The cached texts; None for a damaged file."""
    try:
        content = json.loads(path.read_text("utf-8"))
        texts = content["texts"]
        return texts if content["digest"] == _digest(texts) else None
    except Exception:  # damaged: rebuilt
        return None


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name].strip() + "\n" for name in sorted(topics)]


def _docstrings(library: Path) -> Iterator[str]:
    """One text per module, parsed without importing it."""
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library).with_suffix("")
        if _LEFT_OUT & set(place.parts) or not all(map(str.isidentifier, place.parts)):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # test files with invalid syntax
            continue
        name = ".".join(place.parts).removesuffix(".__init__")
        sections = []
        for heading, docstring in _documented(module, name):
            if len(docstring) >= SHORTEST and docstring not in seen:
                seen.add(docstring)
                sections.append(f"{heading}\n\n{docstring}\n")
        if sections:
            yield "\n".join(sections)


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """(qualified name, cleaned docstring) of a node and its descendants, in source order."""
    if isinstance(node, ast.Module | Definition):
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring.strip()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield from _documented(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt):  # an if or a try may hold definitions
            yield from _documented(child, name)
