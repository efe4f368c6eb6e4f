"""Generates docs/records.md from the records."""

import textwrap
from pathlib import Path
from urllib.parse import quote

from lumenspark.files import changing, write_file
from lumenspark.model_card.markdown import code, text
from lumenspark.records.store import Record, read_records
from lumenspark.records.tracks import TRACKS, Track

INTRODUCTION = """# Records

`lumenspark record` generates this page from the folders in [records/](../records). The latest
record of a track comes first. Results are means over seeds, ± the standard deviation.
`lumenspark record TRACK --data TEXT` reruns the latest record on your machine and compares the
results (exit code 1 if your machine does not reproduce it).

Each text is listed with the first digits of its digest. `wikitext-2` is the official dataset from
the hub; other names are files or folders. In `wikitext-2-raw` (74883340), validation and test are
the official files, and train is a substitute of the same size.
"""


def records_page(folder: Path) -> str:
    """The page in Markdown. Raises UserError for a damaged record in ``folder``."""
    sections = (_section(track, read_records(folder, track.name)) for track in TRACKS.values())
    return "\n".join([INTRODUCTION, *sections])


def write_page(root: Path) -> Path:
    """Update docs/records.md of the checkout at ``root`` and return its path."""
    path = root / "docs" / "records.md"
    with changing(path):
        write_file(path, records_page(root / "records"))
    return path


def _section(track: Track, records: list[Record]) -> str:
    about = textwrap.fill(f"Track `{track.name}`. {track.about}", 100, break_on_hyphens=False)
    head = f"## {track.title}\n\n{about}\n"
    if not records:
        return f"{head}\nNo record yet.\n"
    figures = [column.name for column in track.columns]
    names = ["date", "change", *figures, "seeds", "text", "machine", "commit", "command", "log"]
    rows = [names, ["---"] * len(names), *(_row(track, record) for record in records)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{head}\n{table}"


def _row(track: Track, record: Record) -> list[str]:
    return [
        text(record.date[:10]),
        text(record.change),
        *(column.with_spread(record.figures[column.key]) for column in track.columns),
        ", ".join(map(str, record.seeds)),
        f"{text(record.data)} ({text(record.data_digest[:8])})",
        text(record.machine),
        text(record.commit[:9]) if record.commit else "unknown",
        code(record.command, cell=True),
        f"[files](../records/{record.track}/{quote(record.name)})",
    ]
