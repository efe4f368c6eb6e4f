"""lumenspark push: upload a run to the hub."""

from dataclasses import dataclass

import tyro


@dataclass
class Arguments:
    """Upload weights, tokenizer, code and card of a run to the hub, in one commit."""

    run: tyro.conf.Positional[str]
    """A run's id, the beginning of one, latest, or its folder."""
    repository: tyro.conf.Positional[str]
    """user/name; made if it is not there."""
    checkpoint: str = "best"
    """Which checkpoint."""
    private: bool = False
    """Make the repository private."""


def main(arguments: list[str]) -> None:
    options = tyro.cli(Arguments, prog="lumenspark push", args=arguments)
    from lumenspark.evaluation.push import push
    from lumenspark.training.run import get_run

    run = get_run(options.run)
    print(push(run.path, options.repository, options.checkpoint, private=options.private))
