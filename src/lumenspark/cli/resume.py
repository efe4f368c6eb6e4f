"""lumenspark resume: go on with a run."""

import tyro


def main(arguments: list[str]) -> None:
    run = tyro.cli(_parse, prog="lumenspark resume", args=arguments)
    from lumenspark.pipeline import resume

    from .stopping import saved_when_stopped

    with saved_when_stopped():
        resume(run)


def _parse(run: tyro.conf.Positional[str], /) -> str:
    """Go on from the newest good checkpoint, with the same bits as if never stopped.

    Args:
        run: a run's id, the beginning of one, latest, or its folder.
    """
    return run
