"""lumenspark resume: resume an interrupted run."""

from dataclasses import dataclass

from lumenspark.cli.parsing import RunName, parse


@dataclass
class Arguments:
    """Resume from the latest valid checkpoint; on a CPU, the result is bitwise identical."""

    run: RunName
    """A run id or a unique prefix of one, latest, or a run folder."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "resume", arguments)
    from lumenspark.cli.stopping import exit_when_stopped
    from lumenspark.pipeline import resume

    with exit_when_stopped():
        resume(options.run)
