"""The embedded corpus."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lumenspark.data import python_docs
from lumenspark.data.corpora import SPLITS, Corpus, open_corpus
from lumenspark.data.python_docs import _joined
from lumenspark.errors import UserError


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMENSPARK_CACHE", str(tmp_path_factory.mktemp("docs")))
        corpus = open_corpus("python-docs")
        return {split: corpus.text(split) for split in SPLITS} | {"digest": corpus.digest()}


def test_it_is_more_than_a_megabyte_in_all_three_splits(texts: dict[str, str]) -> None:
    sizes = {split: len(texts[split]) for split in SPLITS}
    assert sum(sizes.values()) > 1_000_000
    assert sizes["train"] > 0.8 * sum(sizes.values())
    assert min(sizes.values()) > 20_000


def test_it_holds_help_topics_and_docstrings(texts: dict[str, str]) -> None:
    whole = "\n".join(texts[split] for split in SPLITS)
    assert 'The "assert" statement' in whole
    assert "Object for wrapping/filling text." in whole
    assert "Remove any common leading whitespace from every line in `text`." in whole
    assert "idlelib" not in {line.partition(".")[0] for line in whole.splitlines()}


def test_a_paragraph_is_one_line_and_code_keeps_its_lines(texts: dict[str, str]) -> None:
    whole = "\n".join(texts[split] for split in SPLITS)
    assert (
        "\nAssert statements are a convenient way to insert debugging assertions into a program:\n"
    ) in whole
    assert "   if __debug__:\n       if not expression: raise AssertionError\n" in whole
    assert "\ntextwrap.dedent\n" not in whole  # a bare name
    assert "\n*********\n" not in whole  # the underline of a heading


def test_wrapped_lines_are_joined_and_other_lines_are_kept() -> None:
    text = """\
Title of the section
********************

A paragraph that is wrapped by hand at some width or other
and goes on. So it is one line.
it has a short line.

* an item whose text is so long that it is wrapped as well,
  with its continuation
* a second item

   code = first(line)
   code = second(line)

>>> doctest(
... 1)
2

name     meaning in a table of two columns of some length
other    another meaning

some.dotted.name
"""
    assert (
        _joined(text)
        == """\
Title of the section

A paragraph that is wrapped by hand at some width or other and goes on. So it is one line.
it has a short line.

* an item whose text is so long that it is wrapped as well, with its continuation
* a second item

   code = first(line)
   code = second(line)

>>> doctest(
... 1)
2

name     meaning in a table of two columns of some length
other    another meaning
"""
    )


def library_of(folder: Path, text: str = "same for everyone") -> Path:
    """A standard library in which every module is one docstring."""
    for name in python_docs.MODULES:
        (folder / f"{name}.py").write_text(f'"""{name}: {text}, whatever the installation."""')
    return folder


def test_what_distributions_add_remove_and_patch_is_not_part_of_it(tmp_path: Path) -> None:
    library = library_of(tmp_path)
    plain = list(python_docs._docstrings(library))
    for extra in ("tkinter/__init__.py", "email/utils.py", "sitecustomize.py", "typing_test.py"):
        (library / extra).parent.mkdir(exist_ok=True)
        (library / extra).write_text('"""A module that is only in some of the installations."""')
    assert list(python_docs._docstrings(library)) == plain
    assert len(plain) == len(python_docs.MODULES)


def test_a_missing_module_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = library_of(tmp_path)
    (library / "textwrap.py").unlink()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(library))
    with pytest.raises(UserError, match=r"textwrap\.py is missing here: install a full Python"):
        open_corpus("python-docs").digest()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"pydoc_data/topics\.py is missing here"):
        open_corpus("python-docs").digest()


def test_its_name_has_the_version_of_python() -> None:
    version = platform.python_version()
    assert open_corpus("python-docs").name == f"python-docs-{version}"
    assert open_corpus(f"python-docs-{version}").name == f"python-docs-{version}"
    with pytest.raises(
        UserError, match=rf"python-docs-3\.11\.0 is the text of another .*{version}"
    ):
        open_corpus("python-docs-3.11.0")


def test_it_is_the_same_in_another_process_with_or_without_its_cache(
    texts: dict[str, str], own_cache: Path
) -> None:
    script = (
        "from lumenspark.data.corpora import open_corpus; import sys\n"
        "print(open_corpus('python-docs').digest(), 'pydoc_data.topics' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    parsed, kept = (run.stdout.split() for run in runs)
    assert parsed == [texts["digest"], "True"]
    assert kept == [texts["digest"], "False"]  # the second run parses nothing


def test_its_card_facts() -> None:
    corpus: Corpus = open_corpus("python-docs")
    assert (corpus.license, corpus.language, corpus.hub_id) == ("PSF-2.0", "en", None)


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"digest": "0", "texts": ["other text"]}', "\xff", ""]
)
def test_a_damaged_cache_is_made_again(
    own_cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumenspark.data.python_docs._docstrings", lambda _: iter(["a module\n"]))
    expected = open_corpus("python-docs").digest()
    (path,) = (own_cache / "python-docs").iterdir()
    path.write_bytes(damage.encode("latin-1"))
    assert open_corpus("python-docs").digest() == expected
    monkeypatch.setattr("lumenspark.data.python_docs._topics", None)
    assert open_corpus("python-docs").digest() == expected  # it has been kept again
