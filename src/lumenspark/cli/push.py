"""lumenspark push: upload a run to the Hugging Face Hub."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from lumenspark.cli.parsing import RunName, parse


@dataclass
class Arguments:
    """Upload weights, tokenizer, code and model card of a run to the hub, in one commit."""

    run: RunName
    """A run id or a unique prefix of one, latest, or a run folder."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """Model repository; created if it does not exist."""
    checkpoint: str = "best"
    """Checkpoint to upload: best, last or step-N."""
    private: bool = False
    """Create the repository as private."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "push", arguments)
    from lumenspark.api import push

    print(push(options.run, options.repository, options.checkpoint, private=options.private))
