"""lumenspark push: upload a run to the hub."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from lumenspark.cli.parsing import RunName, parse


@dataclass
class Arguments:
    """Upload weights, tokenizer, code and card of a run to the hub, in one commit."""

    run: RunName
    """A run's id, the beginning of one, latest, or its folder."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """user/name; made if it is not there."""
    checkpoint: str = "best"
    """Which checkpoint."""
    private: bool = False
    """Make the repository private."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "push", arguments)
    from lumenspark.push import push
    from lumenspark.runs.run import get_run

    run = get_run(options.run)
    print(push(run.path, options.repository, options.checkpoint, private=options.private))
