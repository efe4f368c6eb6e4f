"""samples.json: texts that the best checkpoint wrote when its run ended."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumenspark.errors import reading
from lumenspark.files import write_json


@dataclass(frozen=True)
class Sample:
    """A text, prompt included, and what it was drawn with."""

    prompt: str
    text: str
    temperature: float
    seed: int


def write_samples(run: Path, weights: str | None, samples: list[Sample]) -> None:
    """Write the samples of the weights with digest ``weights`` into a run folder."""
    content = {"weights": weights, "samples": [asdict(sample) for sample in samples]}
    write_json(run / "samples.json", content)


def read_samples(run: Path, weights: str | None) -> list[Sample]:
    """The samples of these weights; none without the file, or where it is about other weights.

    Raises UserError for a damaged file.
    """
    path = run / "samples.json"
    if not path.is_file():
        return []
    with reading(path, "it is damaged, so remove it"):
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if content["weights"] != weights:
            return []
        return [_checked(**sample) for sample in content["samples"]]


def _checked(prompt: str, text: str, temperature: float, seed: int) -> Sample:
    """Raises TypeError and ValueError for values of other types."""
    if not isinstance(prompt, str) or not isinstance(text, str):
        raise TypeError("a sample is not text")
    return Sample(prompt, text, float(temperature), int(seed))
