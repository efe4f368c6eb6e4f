"""Arguments shared by several commands: how to load a model, and the text to read."""

import sys
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lumenspark.cli.parsing import default
from lumenspark.errors import UserError
from lumenspark.recipe import CorpusOptions

if TYPE_CHECKING:
    from lumenspark.data.corpora import Corpus
    from lumenspark.runs.run import Run


@dataclass
class LoadArguments:
    """How to load a model."""

    checkpoint: str = "best"
    """Checkpoint of a run: best, last or step-N."""
    revision: Annotated[str | None, default("main")] = None
    """Commit, branch or tag of a hub model; MODEL@REVISION works too."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to run on; auto: the fastest one available."""
    full_check: bool = False
    """Verify digests of whole files; without it, of samples of files over 256 MB."""
    trust_remote_code: bool = False
    """Run Python code that ships with the weights."""

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of :func:`lumenspark.load`, with the device resolved."""
        from lumenspark.device import choose_device

        return {
            "checkpoint": self.checkpoint,
            "device": choose_device(self.device),
            "trust_remote_code": self.trust_remote_code,
            "revision": self.revision,
            "full_check": self.full_check,
        }


@dataclass
class CorpusArguments:
    """The text to read; options have the names of the recipe's keys."""

    data: Annotated[str | None, default("the run's data")] = None
    """auto, tales, python-docs, wikitext-2, a text file or folder, or the id of a hub dataset."""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)

    def open(self, model: str, run: "Run | None") -> "Corpus":
        """The corpus of ``--data``; without it, the one ``run`` was trained on.

        Raises UserError if there is neither, and for ``--corpus`` options without ``--data``.
        """
        from lumenspark.recipe import Recipe
        from lumenspark.resolve import open_recipe_corpus

        if self.data is not None:
            return open_recipe_corpus(Recipe(data=self.data, corpus=self.corpus), _say)
        if run is None:
            raise UserError(f"{model} is not a run and has no recorded text: give --data")
        if changed := self._changed_options():
            raise UserError(
                f"--corpus.{changed[0].replace('_', '-')} needs --data: the text of a run is read "
                "as its recipe says"
            )
        return open_recipe_corpus(run.recipe(), _say)

    def is_default(self) -> bool:
        """Whether none of the options was given."""
        return self.data is None and not self._changed_options()

    def _changed_options(self) -> list[str]:
        names = [option.name for option in fields(CorpusOptions)]
        return [n for n in names if getattr(self.corpus, n) != getattr(CorpusOptions, n)]


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)  # stdout may be JSON


def run_named(model: str) -> "Run | None":
    """The run that ``model`` names; None for a model folder or a hub id."""
    from lumenspark.runs import run

    return run.run_named(model)
