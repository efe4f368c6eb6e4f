"""What is printed while a model trains, where the output is no terminal."""

import io

from rich.console import Console

from lumenspark.training.progress import Reporter


def test_each_of_several_trainings_has_lines_of_its_own() -> None:
    output = io.StringIO()
    reporter = Reporter(Console(file=output))
    for seconds in (600.0, 20.0):
        with reporter:
            reporter.start(0, 100)
            metrics = {"loss": 4.5, "tokens_per_second": 30_000.0, "seconds": seconds}
            reporter.step(10, 100, metrics)
    assert output.getvalue().count("step 10/100") == 2
