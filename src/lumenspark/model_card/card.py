"""The model card of a run: README.md, generated from the run's files alone.

The card is a pure function of those files (date included) and of the folder that its code names, so
it is verified by generating it again. Sections are those of the Lumiére model card; the layout is
``template.md``.
"""

import difflib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lumenspark.errors import UserError, printable, reading, shortened
from lumenspark.files import changing, write_file
from lumenspark.model_card import sections as sections
from lumenspark.model_card.families import Family, family_of
from lumenspark.model_card.markdown import text
from lumenspark.model_card.run_files import RunFiles, checkpoint_folder, read_run

TEMPLATE = Path(__file__).parent / "template.md"
CLOSING_LINE = re.compile(
    r"This model card was generated on [\w ,]+ using model checkpoint '([\w.-]+)' from run '"
)
FOLDER_LINE = re.compile(r'name = "([^"\\]+)"')
LONGEST_LINE = 200  # characters of a card's line in a message
METRICS = (
    ("loss", "loss", "loss (nats per token)"),
    ("perplexity", "perplexity", "token perplexity"),
    ("word_perplexity", "perplexity", "word perplexity"),
    ("bits_per_byte", "bits_per_byte", "bits per byte"),
)


def build_card(run: Path, checkpoint: str = "best", hub_id: str | None = None) -> ModelCard:
    """The card of a checkpoint of a run; its code loads ``hub_id``, or the folder where it is.

    Raises UserError for a missing checkpoint, and for missing or damaged files. Without evaluations
    the card says so.
    """
    files = read_run(run, checkpoint)
    with reading(
        f"the files of {printable(run)}",
        "the card needs recipe.yaml, environment.json, metrics.jsonl, evaluation.json and the "
        "checkpoint's files as they were written",
    ):
        return _card(files, hub_id)


def _card(files: RunFiles, hub_id: str | None) -> ModelCard:
    """Raises any exception for files with unexpected content."""
    family = family_of(str(files.config["model_type"]))
    card = ModelCard.from_template(
        _metadata(files, family),
        template_path=str(TEMPLATE),
        name=text(sections.model_name(files, family)),
        overview=sections.overview(files, family),
        core=sections.core(files),
        improvements=sections.bullets(family.improvements),
        parameters=sections.parameters(files),
        dataset=sections.dataset(files),
        tokenization=sections.tokenization(files),
        procedure=sections.procedure(files),
        evaluation=sections.evaluation(files),
        samples=sections.samples(files),
        strengths=sections.strengths(files, family),
        limitations=sections.limitations(files),
        components=sections.components(files, family),
        usage=sections.usage(files, hub_id),
        license_text=sections.license_text(files),
        authors=sections.authors(files),
    )
    card.text += "\n"  # Jinja drops the template's last line break
    return card


def write_card(run: Path, checkpoint: str = "best") -> Path:
    """Write the card as ``README.md`` into the run folder. Raises as :func:`build_card`."""
    path = run / "README.md"
    with changing(path):  # locked before reading, so that an older card never replaces a newer one
        write_file(path, str(build_card(run, checkpoint)))
    return path


def check_card(run: Path, checkpoint: str | None = None) -> list[str]:
    """Differences between ``README.md`` and a newly generated card, one sentence per line.

    ``checkpoint`` defaults to the one in the card's closing line, else ``best``. The run may have
    been moved since. Raises UserError for a missing card, and as :func:`build_card`.
    """
    path = run / "README.md"
    if not path.is_file():
        raise UserError(f"{run} has no README.md yet: `lumenspark card {run.name}` writes it")
    written = _lines(path)
    checkpoint = checkpoint or _named_checkpoint(written)
    expected = str(build_card(run, checkpoint)).splitlines()
    folder = checkpoint_folder(run, checkpoint).resolve()
    problems = []
    found = [_where_it_is(line, folder) for line in written]
    matcher = difflib.SequenceMatcher(None, found, expected, autojunk=False)
    for kind, first, last, expected_first, expected_last in matcher.get_opcodes():
        if kind == "equal":
            continue
        problems += [
            f"line {number + 1} is not in the run's files: {_quoted(written[number])}"
            for number in range(first, last)
        ]
        problems += [
            f"after line {last} the run's files say: {_quoted(line)}"
            for line in expected[expected_first:expected_last]
        ]
    return problems


def update_card(run: Path, checkpoint: str) -> None:
    """Rewrite an existing card that describes ``checkpoint``.

    Raises as :func:`build_card`.
    """
    path = run / "README.md"
    if path.is_file() and checkpoint == _named_checkpoint(_lines(path)):
        write_card(run, checkpoint)


def _quoted(line: str) -> str:
    return repr(shortened(line, LONGEST_LINE))


def _lines(path: Path) -> list[str]:
    with reading(path, "remove it, and `lumenspark card` writes a new one"):
        return path.read_text(encoding="utf-8").splitlines()


def _named_checkpoint(card: list[str]) -> str:
    """The checkpoint in the card's closing line, else ``best``."""
    named = [match[1] for line in card if (match := CLOSING_LINE.match(line))]
    return named[-1] if named else "best"


def _where_it_is(line: str, folder: Path) -> str:
    """A card's line; one that names ``folder`` where it was before names it where it is."""
    match = FOLDER_LINE.fullmatch(line)
    moved = match is not None and Path(match[1]).parts[-3:] == folder.parts[-3:]
    return sections.source_line(folder) if moved else line


def _metadata(files: RunFiles, family: Family) -> ModelCardData:
    corpus = files.environment["corpus"]
    entries = files.evaluations
    results = [result for entry in entries for result in _eval_results(entry, entries)]
    language, hub_id = corpus.get("language"), corpus.get("hub_id")
    return ModelCardData(
        language=printable(language) if language else None,
        license="mit",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lumenspark", printable(files.config["model_type"]), "causal-lm"],
        datasets=[printable(hub_id)] if hub_id else None,
        metrics=["perplexity"] if results else None,
        model_name=sections.model_name(files, family),
        eval_results=results or None,
    )


def _eval_results(entry: dict[str, Any], entries: list[dict[str, Any]]) -> list[EvalResult]:
    """The metrics of an evaluation for the hub's model-index."""
    protocol = {
        "protocol": printable(entry["protocol"]),
        "context": entry["context"],
        "stride": entry["stride"],
    }
    name, split = printable(sections.part_name(entry, entries)), printable(entry["split"])
    revision, config = entry.get("revision"), entry.get("config")
    label = printable(
        f"protocol {entry['protocol']}, context {entry['context']}, stride {entry['stride']}"
    )
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=printable(entry.get("hub_id") or sections.data_name(entry)),
            dataset_name=name,
            dataset_config=printable(config) if config else None,
            dataset_split=split,
            dataset_revision=printable(revision) if revision else None,
            metric_type=metric_type,
            metric_name=f"{split.capitalize()} {title}: {label}",
            metric_value=round(entry[key], 4),
            metric_args=protocol,
        )
        for key, metric_type, title in METRICS
        if entry[key] is not None
    ]
