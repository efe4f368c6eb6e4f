"""lumenspark record: rerun a record on this machine and compare."""

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lumenspark.cli.parsing import default, parse
from lumenspark.errors import UserError, quoted

if TYPE_CHECKING:
    from lumenspark.records.store import Record, Trial
    from lumenspark.records.tracks import Track


@dataclass
class Arguments:
    """Rerun the latest record of a track on this machine; exit code 1 if it is not reproduced.

    fast: time to a saved checkpoint with a test loss of 4.3471. best: lowest test loss within 60
    minutes. speed: training throughput in tokens/s and MFU. See docs/records.md.
    """

    track: Annotated[Literal["fast", "best", "speed"], tyro.conf.Positional]
    """Track whose latest record to rerun."""
    data: Annotated[str | None, default("wikitext-2; python-docs for speed")] = None
    """Corpus, as for train."""
    seeds: int = 1
    """Number of seeds: 0, 1, 2, …"""
    write: bool = False
    """In a git checkout: run the track's recipe, and add a new record if its limits hold."""
    change: Annotated[str | None, default("none")] = None
    """With --write: a few words on the change since the last record."""


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
    here, trials = measure_all(options, track, newest)
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
    """The checkout for a new record; None without ``--write``.

    Raises UserError outside a checkout and for uncommitted changes, since a record names its
    commit.
    """
    from lumenspark.records.store import checkout, read_records

    change = " ".join((options.change or "").split())
    if options.write != bool(change):
        raise UserError(
            "--write needs --change, a short description, and --change needs --write: give "
            "both or neither"
        )
    if not options.write:
        return None
    root = checkout()
    if root is None:
        raise UserError(
            "--write adds to the records of a git checkout: clone the repository and run it from "
            "there"
        )
    command = ["git", "-C", str(root), "status", "--porcelain", "--", "src"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout:
        raise UserError(
            f"a record names its commit, and {root / 'src'} has uncommitted changes: commit them "
            "first"
        )
    if any(change == record.change for record in read_records(root / "records", options.track)):
        raise UserError(
            f"a record with the change {quoted(change)} exists already: describe the new one"
        )
    return root


def newest_record(track: "Track", needed: bool) -> "Record | None":
    """The record to rerun; None if there is none. Raises UserError if one is needed."""
    from lumenspark.records.store import read_records, records_folder

    records = read_records(records_folder(), track.name)
    if needed and not records:
        raise UserError(
            f"track {track.name} has no record to rerun: --write --change adds the first one, in a "
            "git checkout"
        )
    return records[0] if records else None


def measure_all(
    options: Arguments, track: "Track", newest: "Record | None"
) -> tuple["Record", list["Trial"]]:
    """Run all seeds; print the record before, and the run folders afterwards."""
    from lumenspark.errors import printable
    from lumenspark.records.rerun import measure, open_text
    from lumenspark.records.store import new_record

    recipe = track.recipe if newest is None or options.write else newest.recipe
    data = options.data or track.data
    corpus = open_text(track.name, recipe, data)
    data, digest = corpus.name, corpus.digest()  # the one text that auto is now
    if newest is not None:
        print(printable(f"latest record: {newest.date[:10]}, {newest.change} ({newest.machine})"))
        if newest.data_digest != digest:
            print(
                printable(
                    f"{data} differs from the corpus of the record, {newest.data}: losses differ"
                )
            )
    sys.stdout.flush()  # before subprocesses print
    trials = [measure(track.name, recipe, data, seed) for seed in range(options.seeds)]
    for trial in trials:
        if trial.run is not None:
            print(f"seed {trial.seed}: run folder {trial.run}")
    here = new_record(track.name, recipe, data, digest, options.change or "", trials)
    return here, trials


def print_figures(track: "Track", newest: "Record | None", here: "Record") -> None:
    """Print recorded and measured results and their ratio."""
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
