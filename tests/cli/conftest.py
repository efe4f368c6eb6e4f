"""What the tests of the verbs share."""

from collections.abc import Callable

import pytest

from lumenspark.cli import run


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must succeed; what it printed."""

    def run_and_read(*arguments: object) -> str:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return run_and_read
