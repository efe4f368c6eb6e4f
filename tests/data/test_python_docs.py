"""The embedded corpus."""

import subprocess
import sys
from pathlib import Path

import pytest

from lumenspark.data.corpora import SPLITS, Corpus, open_corpus


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMENSPARK_CACHE", str(tmp_path_factory.mktemp("docs")))
        corpus = open_corpus("python-docs")
        return {split: corpus.text(split) for split in SPLITS} | {"digest": corpus.digest()}


def test_it_is_about_two_megabytes_in_all_three_splits(texts: dict[str, str]) -> None:
    sizes = {split: len(texts[split]) for split in SPLITS}
    assert sum(sizes.values()) > 1_500_000
    assert sizes["train"] > 0.8 * sum(sizes.values())
    assert min(sizes.values()) > 20_000


def test_it_holds_help_topics_and_docstrings_under_their_names(texts: dict[str, str]) -> None:
    whole = "\n".join(texts[split] for split in SPLITS)
    assert 'The "assert" statement' in whole
    assert "textwrap.TextWrapper\n\nObject for wrapping/filling text." in whole
    assert "textwrap.dedent\n\nRemove any common leading whitespace" in whole
    assert "idlelib" not in {line.partition(".")[0] for line in whole.splitlines()}


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
