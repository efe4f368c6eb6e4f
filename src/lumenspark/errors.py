"""The one exception that a user can cause, and how what others raise becomes that."""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_QUOTE = 80  # characters of a value from outside
LONGEST_REASON = 300  # characters of another library's message

_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LONGEST_QUOTE


class UserError(Exception):
    """What a user did cannot work. The message is one sentence: what was wrong and what to do.

    The command line prints it without a traceback and exits with code 2. Names from outside may
    hold line breaks and control characters, so these are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@contextmanager
def reading(what: str | Path, fix: str) -> Iterator[None]:
    """Inside, something from outside is parsed; whatever that raises becomes a UserError.

    Parsers of foreign files raise what they like (RecursionError, KeyError, a Rust panic), so a
    list of exception types always has holes. Keep the block to the parsing alone: a mistake of
    this package inside it would be reported as the file's. ``what`` names the file, ``fix`` says
    what to do. A UserError passes unchanged, because it knows more.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # A panic of a library in Rust is no Exception, and has no class that can be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} cannot be read ({first_line(error)}): {fix}") from error


def quoted(value: object) -> str:
    """``repr(value)`` in at most 80 characters, without building a longer one first."""
    try:
        return shortened(_REPR.repr(value), LONGEST_QUOTE)
    except ValueError:  # an integer of more digits than Python prints
        return f"<{type(value).__name__}>"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened; the kind of error where it has none."""
    text = str(error).strip() or type(error).__name__
    return printable(shortened(text.splitlines()[0], LONGEST_REASON))


def printable(value: object) -> str:
    """``str(value)`` on one line, with what a terminal would act on (and lone surrogates) escaped.

    For names from outside: folders, recipes, models, tokens.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(text: str, length: int) -> str:
    """``text``, its middle left out where it is longer than ``length`` characters."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[head + 1 - length :]}"
