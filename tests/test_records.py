"""The book of records: the page says what the folders say, and a figure holds by the rules."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lumenspark.errors import UserError
from lumenspark.records.page import records_page
from lumenspark.records.store import (
    Record,
    Trial,
    brief_metrics,
    new_record,
    read_records,
    write_record,
)
from lumenspark.records.tracks import (
    TRACKS,
    Figures,
    check_against,
    check_limits,
    duration,
    loss_tolerance,
)
from lumenspark.runs.run import Run

ROOT = Path(__file__).parents[1]
WRITE_PAGE = "from pathlib import Path; from lumenspark.records.page import *; write_page(Path())"


def fast(seconds: list[float], losses: list[float]) -> Figures:
    return {
        "seconds_to_checkpoint": seconds,
        "seconds": [value + 20 for value in seconds],
        "test_loss": losses,
        "bits_per_byte": [loss / 2.4 for loss in losses],
    }


RECORD = Record(
    track="fast",
    date="2026-03-04T05:06:07+00:00",
    change="Larger batches | later",
    recipe="lumiere-1m-fast",
    command="lumenspark train lumiere-1m-fast --data wikitext-2 --seed 0",
    data="wikitext-2",
    data_digest="0123456789abcdef",
    seeds=[0, 1],
    figures=fast([300.0, 306.0], [4.33, 4.34]),
    machine="A processor, Linux x86_64, 2 cores, 2 threads",
    commit="abcdef0123456789",
    versions={"torch": "2.13.0"},
)


@pytest.fixture
def trial(trained: Path) -> Trial:
    """What a small run has left, as a record's first seed."""
    run = Run(trained)
    figures = {key: values[0] for key, values in RECORD.figures.items()}
    metrics = list(run.metrics())
    return Trial(0, figures, asdict(run.recipe()), run.environment(), metrics)


def put(folder: Path, record: Record, **changes: object) -> Path:
    """Write ``record.json`` alone, with some of its keys changed in the file."""
    file = folder / record.track / record.name / "record.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(record) | changes), encoding="utf-8")
    return file


def test_the_committed_page_is_what_the_folders_give() -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    assert page == records_page(ROOT / "records"), f'python -c "{WRITE_PAGE}"'


def test_a_record_names_no_folder_of_its_machine(
    trial: Trial, tmp_path: Path, text_folder: Path
) -> None:
    record = new_record(
        "fast", "lumiere-1m-fast", str(text_folder), "ab" * 32, "the first", [trial]
    )
    folder = write_record(tmp_path / "records", record, [trial])
    assert {path.name for path in folder.iterdir()} == {
        "record.json",
        "recipe.yaml",
        "environment.json",
        "metrics-seed-0.jsonl",
    }
    content = "".join(path.read_text("utf-8") for path in folder.iterdir())
    assert str(text_folder.parent) not in content
    assert f"--data {text_folder.name} --seed 0" in content
    assert f"data: {text_folder.name}\n" in content


def test_what_is_written_is_read(trial: Trial, tmp_path: Path) -> None:
    trials = [trial, replace(trial, seed=1)]
    record = new_record("fast", "lumiere-1m-fast", "wikitext-2", "ab" * 32, " a\n b ", trials)
    write_record(tmp_path, record, trials)
    assert read_records(tmp_path, "fast") == [record]
    assert record.change == "a b"
    assert record.seeds == [0, 1]
    assert record.figures["test_loss"] == [4.33, 4.33]
    assert record.date == trial.environment["started_at"]
    with pytest.raises(UserError, match="exists already"):
        write_record(tmp_path, record, trials)


def test_the_page_of_some_records(tmp_path: Path) -> None:
    older = replace(RECORD, date="2026-03-04T01:00:00+00:00", change="Zero", seeds=[0])
    older = replace(older, figures=fast([400.0], [4.3471]), commit=None)
    put(tmp_path, older)
    put(tmp_path, RECORD)
    page = records_page(tmp_path)
    newer_row, older_row = (line for line in page.splitlines() if line.startswith("| 2026"))
    assert newer_row.startswith(
        "| 2026-03-04 | Larger batches &#124; later | 5 min 03 s ± 4 s | 4.3350 ± 0.0071 |"
    )
    for cell in (
        "0, 1",
        "wikitext-2 (01234567)",
        RECORD.machine,
        "abcdef012",
        f"`{RECORD.command}`",
        "[files](../records/fast/2026-03-04-larger-batches-later)",
    ):
        assert f" {cell} |" in newer_row
    assert "| 6 min 40 s | 4.3471 |" in older_row
    assert "| unknown |" in older_row
    assert page.count("No record yet.") == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"change": "Another"}, "belong to the folder fast/2026-03-04-another"),
        ({"track": "best"}, "belong to the folder best/2026-03-04-larger"),
        ({"seeds": [0]}, "a value for each of its 1 seeds"),
        ({"seeds": []}, "it has no seeds"),
        ({"figures": {}}, "seconds_to_checkpoint must have"),
        ({"seeds": "none"}, "seeds: "),
    ],
)
def test_a_damaged_record(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    put(tmp_path, RECORD, **changes)
    with pytest.raises(UserError, match=r"record\.json is damaged") as caught:
        records_page(tmp_path)
    assert words in str(caught.value)


def test_a_record_that_is_no_json(tmp_path: Path) -> None:
    put(tmp_path, RECORD).write_text("{no")
    with pytest.raises(UserError, match="is damaged: the file: "):
        read_records(tmp_path, "fast")


def test_long_metrics_are_thinned_and_validations_stay() -> None:
    losses = [{"step": step, "loss": 5.0} for step in range(1, 1002)]
    inside = [{"step": 50, "lens loss/embed": 8.0}]
    event = {"step": 7, "event": "rollback", "loss": "nan"}
    validations = [{"step": step, "validation_loss": 5.0} for step in (500, 1001)]
    kept = brief_metrics([*losses, *inside, event, *validations])
    assert [line for line in kept if "validation_loss" in line] == validations
    assert event in kept
    assert inside[0] not in kept
    steps = [line["step"] for line in kept if "loss" in line and "event" not in line]
    assert len(steps) <= 200
    assert steps[-1] == 1001
    assert len({later - step for step, later in itertools.pairwise(steps)}) == 1
    assert brief_metrics(losses[:3]) == losses[:3]


@pytest.mark.parametrize(
    ("seconds", "losses", "holds"),
    [
        ([600.0, 300.0], [4.3471, 4.30], [True, True]),
        ([600.1, 300.0], [4.3471, 4.30], [True, False]),
        ([300.0, 300.0], [4.3472, 4.20], [False, True]),
    ],
)
def test_fast_holds_for_every_seed(
    seconds: list[float], losses: list[float], holds: list[bool]
) -> None:
    checks = check_limits(TRACKS["fast"], fast(seconds, losses))
    assert [check.holds for check in checks] == holds
    assert check_against(TRACKS["fast"], fast(seconds, losses), RECORD.figures) == []


def test_best_may_end_within_the_hour_only() -> None:
    def checks(seconds: float) -> list[bool]:
        return [c.holds for c in check_limits(TRACKS["best"], fast([seconds - 20], [4.1]))]

    assert checks(3600.0) == [True]
    assert checks(3600.5) == [False]


@pytest.mark.parametrize(
    ("recorded", "loss", "holds"),
    [
        ([4.1], 4.109, True),
        ([4.1], 4.111, False),
        ([4.08, 4.12], 4.156, True),  # two standard deviations are 0.0566
        ([4.08, 4.12], 4.157, False),
        ([4.1, 4.1001], 4.11, True),
    ],
)
def test_best_holds_within_the_spread(recorded: list[float], loss: float, holds: bool) -> None:
    before, here = fast([10.0] * len(recorded), recorded), fast([10.0], [loss])
    (check,) = check_against(TRACKS["best"], here, before)
    assert check.holds == holds


def test_the_tolerance_is_never_below_a_hundredth() -> None:
    assert loss_tolerance([4.1]) == 0.01
    assert loss_tolerance([4.1, 4.1]) == 0.01


@pytest.mark.parametrize(("share", "holds"), [(0.42, False), (0.43, True), (0.6, True)])
def test_speed_holds_by_its_share_of_the_peak(share: float, holds: bool) -> None:
    (check,) = check_against(TRACKS["speed"], {"mfu": [share]}, {"mfu": [0.5]})
    assert check.holds == holds


def test_times_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 59.6, 303.2, 3600)] == [
        "0 s",
        "1 min 00 s",
        "5 min 03 s",
        "60 min 00 s",
    ]
