"""The built-in corpus ``python-docs``: documentation of the Python installation, about 1.3 MB.

A document is a topic of Python's help (``pydoc_data``), or the docstrings of a standard library
module, its classes and functions, in source order. Wrapped lines are joined. Needs no network.

The text is a function of Python's version, which is part of the corpus' name:
``python-docs-3.11.7``. Installations of one version differ in what distributions remove (tkinter,
ensurepip), add (modules of their own) and patch (security fixes in email, http or tarfile), so
only modules that they leave alone are read.
"""

import ast
import hashlib
import json
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from lumenspark.data.cache_folder import cache_folder, writing_below
from lumenspark.data.documents import SHARES, Corpus, Piece, cut, in_split
from lumenspark.data.split_names import SPLITS
from lumenspark.errors import UserError
from lumenspark.files import remove_leftovers, write_file

FORMAT = 3  # increment when documents or file format change
NAME = "python-docs"
SHORTEST = 40  # characters; "Return repr(self)." is not prose
# In Python and the same on all systems, in 3.11 and later, in every distribution, unpatched.
_NAMES = """
    _collections_abc _pydecimal _pyio _strptime _threading_local abc argparse ast asyncio bdb bisect
    calendar cmd code codecs codeop collections concurrent configparser contextlib copy csv
    dataclasses datetime decimal difflib dis doctest enum filecmp fileinput fnmatch fractions
    functools genericpath getopt glob graphlib heapq importlib inspect io json linecache logging
    multiprocessing ntpath numbers opcode operator optparse os pathlib pdb pickle pickletools
    pkgutil posixpath pprint profile pstats pyclbr queue random re reprlib rlcompleter runpy sched
    selectors shelve shlex socketserver statistics string symtable tabnanny textwrap threading
    timeit tokenize tomllib trace traceback types typing unittest uuid wave weakref
"""
MODULES = tuple(_NAMES.split())
_TESTS = {"test", "tests"}  # some distributions remove them
_VERSIONED = re.compile(rf"{NAME}-\d[\w.+]*")

_WIDE = 55  # characters: a shorter line, with room for the next word, was broken on purpose
_SPACES = re.compile(" *")
_MARKER = re.compile(r" *(?:(?:[*+-]|\d+[.)]|\([a-z\d]\)) +)?")  # of a list
_UNDERLINE = re.compile(r"([=~*^\"-])\1{2,}")
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_AS_WRITTEN = re.compile(
    r" *(>>>|\.\.\. |\.\. |\||[:@]\w|[\w.()*,']{1,30} +--? )"  # doctest, directive, field, term
    r"|.*([^\s.:?!]  +\S|\t|::)"  # table, literal block, grammar
)
_CODE = re.compile(r" *#|.*(=|->| - |\)$)")  # of indented lines

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_python_docs(name: str) -> bool:
    """Whether ``name`` is ``python-docs``, or ``python-docs-3.11.7`` with any version."""
    return name == NAME or _VERSIONED.fullmatch(name) is not None


def open_python_docs(name: str) -> "PythonDocs":
    """The corpus ``name``. Raises UserError for the version of another Python."""
    corpus = PythonDocs()
    if name not in (NAME, corpus.name):
        raise UserError(
            f"{name} is the text of another Python than this one, {platform.python_version()}: "
            f"run that version, or use {corpus.name}"
        )
    return corpus


class PythonDocs(Corpus):
    """``python-docs`` of this Python, split by the hash of each document."""

    layout = "plain"
    license = "PSF-2.0"
    language = "en"

    def __init__(self, cache: Path | None = None) -> None:
        self.name = f"{NAME}-{platform.python_version()}"
        self._folder = (cache or cache_folder()) / NAME

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
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise _incomplete("pydoc_data/topics.py") from None
    return [_joined(topics[name]) for name in sorted(topics)]


def _docstrings(library: Path) -> Iterator[str]:
    """One text per module, parsed without importing it."""
    seen: set[str] = set()
    for place in _sources(library):
        with warnings.catch_warnings(action="ignore"):
            module = ast.parse((library / place).read_bytes())
        docstrings = []
        for docstring in _documented(module):
            if len(docstring) >= SHORTEST and docstring not in seen:
                seen.add(docstring)
                docstrings.append(_joined(docstring))
        text = "\n".join(filter(None, docstrings))
        if text:
            yield text


def _sources(library: Path) -> list[str]:
    """The files of :data:`MODULES` below ``library``. Raises UserError if a module is missing."""
    files = []
    for name in MODULES:
        folder = library / name
        if (library / f"{name}.py").is_file():
            files.append(f"{name}.py")
        elif (folder / "__init__.py").is_file():
            inside = (path.relative_to(library) for path in folder.rglob("*.py"))
            files += [path.as_posix() for path in inside if not _TESTS & set(path.parts)]
        else:
            raise _incomplete(f"{name}.py")
    return sorted(files)


def _incomplete(missing: str) -> UserError:
    return UserError(
        f"{NAME} is made from Python's standard library, in which {missing} is missing here: "
        "install a full Python (on Debian libpython3-stdlib), or give another text with --data"
    )


def _documented(node: ast.AST) -> Iterator[str]:
    """The docstrings of a node and its descendants, in source order."""
    if isinstance(node, ast.Module | Definition):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring.strip()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):  # an if or a try may hold definitions
            yield from _documented(child)


def _joined(text: str) -> str:
    """``text`` with one line per paragraph and list item, without underlines and bare names.

    Code, tables and lists keep their lines.
    """
    lines, previous = [""], ""
    for line in map(str.rstrip, text.strip().splitlines()):
        if _DOTTED_NAME.fullmatch(line) or _UNDERLINE.fullmatch(line):
            continue
        if _continues(previous, line):
            lines[-1] += " " + line.lstrip()
        elif line or lines[-1]:
            lines.append(line)
        previous = line
    return "\n".join(lines).strip("\n") + "\n"


def _continues(previous: str, line: str) -> bool:
    """Whether ``line`` is the rest of the paragraph or list item that ``previous`` is a line of."""
    indentation = _width(_SPACES, line)
    if not (previous and line) or indentation != _width(_MARKER, previous):
        return False
    if _width(_MARKER, line) > indentation or any(map(_AS_WRITTEN.match, (previous, line))):
        return False
    if indentation and any(map(_CODE.match, (previous, line))):
        return False
    first = line.split(maxsplit=1)[0]
    if len(previous) + 1 + len(first) > _WIDE:
        return True
    return not indentation and first[0].islower() and previous[-1] not in ".:;"


def _width(start: re.Pattern[str], line: str) -> int:
    match = start.match(line)
    return match.end() if match else 0
