"""lumenspark card: write a run's model card, or check the one that is there."""

from dataclasses import dataclass

from lumenspark.cli.parsing import RunName, parse
from lumenspark.errors import UserError


@dataclass
class Arguments:
    """Write a run's README.md, which says only what the run's files say."""

    run: RunName
    """A run's id, the beginning of one, latest, or its folder."""
    checkpoint: str | None = None
    """Which checkpoint the card is about; best unless given."""
    check: bool = False
    """Write nothing; fail where the card says what the files do not."""


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
    untrue = check_card(run.path, options.checkpoint)
    if untrue:
        for line in untrue:
            print(line)
        raise UserError(
            f"the card of run {name} and its files disagree in the lines above: write it again "
            f"with `lumenspark card {name}`"
        )
    print(f"the card of run {name} says what its files say")
