"""What the hostile tests share."""

import io
import sys
from collections.abc import Callable

import pytest

from lumenspark import cli


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """``refused(*arguments)``: the command line takes them or says what is wrong, no worse."""

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        try:
            code = cli.run(list(arguments))
        except SystemExit as ended:  # how the parser of options refuses, and prints help
            code = ended.code
        said = capsys.readouterr()
        assert code in (0, 2, None), (arguments, said.err[-500:])
        assert "Traceback" not in said.err

    return call
