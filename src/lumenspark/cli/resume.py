"""lumenspark resume: go on with a run."""

from dataclasses import dataclass

from lumenspark.cli.parsing import RunName, parse


@dataclass
class Arguments:
    """Go on from the newest good checkpoint, with the same bits as if never stopped."""

    run: RunName
    """A run's id, the beginning of one, latest, or its folder."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "resume", arguments)
    from lumenspark.cli.stopping import saved_when_stopped
    from lumenspark.pipeline import resume

    with saved_when_stopped():
        resume(options.run)
