"""lumenspark record: rerun a record here, and say whether it holds."""

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lumenspark.cli.parsing import parse
from lumenspark.errors import UserError, quoted

if TYPE_CHECKING:
    from lumenspark.records.store import Record, Trial
    from lumenspark.records.tracks import Track


@dataclass
class Arguments:
    """Rerun the newest record of a track here, and say whether it holds (exit code 1: it does not).

    fast: the time to a saved checkpoint with a test loss of 4.3471. best: the lowest test loss
    within 60 minutes. speed: training tokens a second, and the share of this machine's peak. The
    records are in docs/records.md.
    """

    track: Annotated[Literal["fast", "best", "speed"], tyro.conf.Positional]
    data: str | None = None
    """The text, as for train; wikitext-2 unless given, for speed python-docs."""
    seeds: int = 1
    """How many seeds to run: 0, 1, 2, …"""
    write: bool = False
    """In a checkout: run the track's preset, and make a new record of it where it holds."""
    change: str | None = None
    """With --write: in a few words, what has changed since the record before."""


def main(arguments: list[str]) -> int:
    options = parse(Arguments, "record", arguments)
    from lumenspark.records.page import write_page
    from lumenspark.records.store import write_record
    from lumenspark.records.tracks import TRACKS, check_against, check_limits
    from lumenspark.runs.run import tidy_runs

    tidy_runs()
    if options.seeds < 1:
        raise UserError(f"--seeds must be 1 or more, not {options.seeds}")
    root = checkout_to_write(options)
    track = TRACKS[options.track]
    newest = newest_record(track, needed=root is None)
    here, trials = measured(options, track, newest)
    print_figures(track, newest, here)
    checks = check_limits(track, here.figures)
    checks += check_against(track, here.figures, newest.figures) if newest else []
    for check in checks:
        print(f"{'holds' if check.holds else 'does not hold'}: {check.rule}")
    holds = all(check.holds for check in checks)
    if root is not None and holds:
        print(f"written: {write_record(root / 'records', here, trials)} and {write_page(root)}")
    return 0 if holds else 1


def checkout_to_write(options: Arguments) -> Path | None:
    """Where a new record is to be written; None where none is asked for.

    Raises UserError where it could not be: a record names the commit that it was made with.
    """
    from lumenspark.records.store import checkout, read_records

    change = " ".join((options.change or "").split())
    if options.write != bool(change):
        raise UserError(
            "--write and --change, which says in a few words what is new, go together: give both "
            "or neither"
        )
    if not options.write:
        return None
    root = checkout()
    if root is None:
        raise UserError(
            "--write adds to the records of a checkout, and this package is installed without one: "
            "clone the repository and run it from there"
        )
    command = ["git", "-C", str(root), "status", "--porcelain", "--", "src"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout:
        raise UserError(
            f"a record names the commit that it was made with, and what is in {root / 'src'} is "
            "not committed: commit it first"
        )
    if any(change == record.change for record in read_records(root / "records", options.track)):
        raise UserError(
            f"there is a record already whose change is {quoted(change)}: say what is new"
        )
    return root


def newest_record(track: "Track", needed: bool) -> "Record | None":
    """The record to rerun. Raises UserError where one is needed and there is none."""
    from lumenspark.records.store import read_records, records_folder

    records = read_records(records_folder(), track.name)
    if needed and not records:
        raise UserError(
            f"track {track.name} has no record yet, so there is nothing to rerun: --write --change "
            "makes the first one, in a checkout"
        )
    return records[0] if records else None


def measured(
    options: Arguments, track: "Track", newest: "Record | None"
) -> tuple["Record", list["Trial"]]:
    """Run all seeds, and say before it what is rerun and after it where the runs are."""
    from lumenspark.errors import printable
    from lumenspark.records.rerun import measure, open_text
    from lumenspark.records.store import new_record

    recipe = track.recipe if newest is None or options.write else newest.recipe
    data = options.data or track.data
    digest = open_text(track.name, recipe, data).digest()
    if newest is not None:
        print(
            printable(f"the newest record: {newest.date[:10]}, {newest.change} ({newest.machine})")
        )
        if newest.data_digest != digest:
            print(
                printable(
                    f"{data} is not the text of the record, {newest.data}: losses will differ"
                )
            )
    sys.stdout.flush()  # before others print
    trials = [measure(track.name, recipe, data, seed) for seed in range(options.seeds)]
    for trial in trials:
        if trial.run is not None:
            print(f"seed {trial.seed}: the run is kept in {trial.run}")
    here = new_record(track.name, recipe, data, digest, options.change or "", trials)
    return here, trials


def print_figures(track: "Track", newest: "Record | None", here: "Record") -> None:
    """The recorded figures, those measured here, and their ratio."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("recorded", "here", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for column in track.columns:
        measured = here.figures[column.key]
        recorded = newest.figures[column.key] if newest else []
        table.add_row(
            column.name,
            column.with_spread(recorded) if recorded else "",
            column.with_spread(measured),
            f"{statistics.mean(measured) / statistics.mean(recorded):.3f}" if recorded else "",
        )
    print(f"\ntrack {track.name}, here: {here.machine}, {here.command}")
    Console(highlight=False).print(table)
