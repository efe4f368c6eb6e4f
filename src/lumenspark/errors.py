"""UserError, conversion of foreign exceptions to it, and quoting of outside text in messages."""

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_QUOTE = 80  # characters of an outside value
LONGEST_REASON = 300  # characters of another library's message

_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LONGEST_QUOTE


class UserError(Exception):
    """An error that the user can fix. The message is one sentence: the problem and the fix.

    The command line prints it without a traceback and exits with code 2. Line breaks and control
    characters, as in file names, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@contextmanager
def reading(what: str | Path, fix: str) -> Iterator[None]:
    """Convert every exception of the block to a UserError: for parsing of outside files.

    Parsers raise any type (RecursionError, KeyError, a Rust panic), so no list of types is
    complete. Keep the block to the parsing alone: a bug inside it would be reported as a fault of
    the file. ``what`` names the file, ``fix`` says what to do. A UserError passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # PanicException of Rust extensions derives from BaseException and cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} cannot be read ({first_line(error)}): {fix}") from error


def quoted(value: object) -> str:
    """``repr(value)`` in at most 80 characters, truncated while it is built."""
    try:
        return shortened(_REPR.repr(value), LONGEST_QUOTE)
    except ValueError:  # an integer above Python's digit limit
        return f"<{type(value).__name__}>"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` with the closest of ``known``, to append to a message; else empty."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened; the exception type for an empty message."""
    text = str(error).strip() or type(error).__name__
    return printable(shortened(text.splitlines()[0], LONGEST_REASON))


def printable(value: object) -> str:
    """``str(value)`` on one line, with control characters and lone surrogates escaped.

    For outside names: folders, recipes, models, tokens.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(text: str, length: int) -> str:
    """``text`` in at most ``length`` characters, truncated in the middle."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[head + 1 - length :]}"
