"""What is printed while a model trains, and that no training ends because it cannot be."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import SMALL, overrides
from rich.console import Console

import lumenspark
from lumenspark.reporter import Reporter

METRICS = {"loss": 4.5, "tokens_per_second": 30_000.0, "seconds": 20.0}


def test_each_of_several_trainings_has_lines_of_its_own() -> None:
    output = io.StringIO()
    reporter = Reporter(Console(file=output))
    for seconds in (600.0, 20.0):
        with reporter:
            reporter.start(0, 100)
            reporter.step(10, 100, METRICS | {"seconds": seconds})
    assert output.getvalue().count("step 10/100") == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("own_console", [True, False])
def test_what_cannot_be_printed_is_replaced(encoding: str, own_console: bool) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    with contextlib.redirect_stdout(stream):
        reporter = Reporter(Console(file=stream)) if own_console else Reporter()
        reporter.say("a sample: \ufffd\u2581 \udcff 猫")
        reporter.say("and on")
    stream.flush()
    printed = raw.getvalue().decode(encoding)
    assert printed.startswith("a sample: ")
    assert printed.endswith("and on\n")
    assert ("\ufffd" in printed) is (encoding == "utf-8")


class Broken(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed(), Broken()], ids=["none", "closed", "broken"])
@pytest.mark.parametrize("terminal", [True, False])
def test_an_output_that_is_gone_is_not_written_to(
    stream: io.StringIO | None, terminal: bool
) -> None:
    with contextlib.redirect_stdout(stream):
        reporter = Reporter(Console(file=stream, force_terminal=terminal) if terminal else None)
        with reporter:
            reporter.say("nobody reads this")
            reporter.start(0, 10)
            reporter.step(10, 10, METRICS)


def test_names_are_text_and_no_markup() -> None:
    output = io.StringIO()
    Reporter(Console(file=output)).say("corpus[v2] [bold]not[/bold] :smile: [/]")
    assert output.getvalue() == "corpus[v2] [bold]not[/bold] :smile: [/]\n"


def narrow(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    "stream",
    [narrow("ascii"), narrow("cp1252"), closed(), Broken(), None],
    ids=["ascii", "cp1252", "closed", "broken", "none"],
)
def test_a_training_from_python_ends_with_its_files_whatever_the_output_is(
    text_folder: Path, own_runs: Path, stream: io.TextIOBase | None
) -> None:
    settings = SMALL | {"train.steps": 4, "train.sample_every": 2}
    with contextlib.redirect_stdout(stream):
        run = lumenspark.train("lumiere-tiny", data=str(text_folder), **settings)
    assert (run.path / "README.md").is_file()


def test_a_prompt_that_is_no_text_ends_no_training(
    text_folder: Path, own_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SMALL | {"train.steps": 2, "train.sample_every": 1, "train.prompt": "caf\udce9"}
    run = lumenspark.train("lumiere-tiny", data=str(text_folder), **settings)
    assert (run.path / "README.md").is_file()
    printed = capsys.readouterr().out
    assert "step 1 writes: none: the prompt 'caf\\udce9' cannot be continued" in printed


def test_a_training_whose_reader_has_gone_ends_with_its_files(
    text_folder: Path, own_runs: Path
) -> None:
    command = [sys.executable, "-u", "-m", "lumenspark", "train", "lumiere-tiny"]
    process = subprocess.Popen(
        [*command, "--data", str(text_folder), *overrides()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"LUMENSPARK_RUNS": str(own_runs)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 0, said
    assert b"Traceback" not in said
    (run,) = (path for path in own_runs.iterdir() if path.is_dir())
    assert (run / "README.md").is_file()
