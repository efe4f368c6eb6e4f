"""lumenspark card: write or verify the model card of a run."""

from dataclasses import dataclass
from typing import Annotated

from lumenspark.cli.parsing import RunName, default, parse
from lumenspark.errors import UserError


@dataclass
class Arguments:
    """Write the model card of a run, its README.md, from the run's files."""

    run: RunName
    """A run id or a unique prefix of one, latest, or a run folder."""
    checkpoint: Annotated[str | None, default("best")] = None
    """Checkpoint that the card describes: best, last or step-N."""
    check: bool = False
    """Verify the existing card instead; fail where it differs from the files."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "card", arguments)
    from lumenspark.errors import printable
    from lumenspark.model_card.card import check_card, write_card
    from lumenspark.runs.run import get_run

    run = get_run(options.run)
    name = printable(run.id)
    if not options.check:
        print(write_card(run.path, options.checkpoint or "best"))
        return
    wrong_lines = check_card(run.path, options.checkpoint)
    if wrong_lines:
        for line in wrong_lines:
            print(line)
        raise UserError(
            f"the card of run {name} differs from its files in the lines above: write it again "
            f"with `lumenspark card {name}`"
        )
    print(f"the card of run {name} agrees with its files")
