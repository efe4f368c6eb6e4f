"""The command `lumenspark`: one module for each verb. They parse, call, and print."""

import os
import sys
from importlib import import_module

VERBS = {
    "train": "train a recipe, evaluate it, write its card and curves",
    "resume": "go on with a run that was stopped",
    "sweep": "train a recipe with values varied, and compare",
    "evaluate": "perplexity and bits per byte of any causal language model",
    "generate": "write text",
    "inspect": "write a page that shows what a model does inside",
    "compress": "make a model smaller: low-rank layers",
    "convert": "bring a checkpoint of lumenspark 0.1 into today's layout",
    "card": "write a run's model card, or check it",
    "push": "upload a run's model and card to the hub",
    "prepare": "turn text into token ids ahead of time",
    "runs": "list what has been trained",
    "recipes": "list the presets",
    "record": "rerun a record of docs/records.md: does it hold here?",
}

HELP = """usage: lumenspark VERB [ARGUMENTS]      (lumenspark VERB --help says more)

{verbs}

A model is named by a folder, a run's id or the beginning of one, latest, or an id on the hub.

  lumenspark train lumiere-1m                        four minutes, on text that Python carries
  lumenspark train lumiere-1m --data my-folder --budget 20m
  lumenspark generate latest "The film was"

--debug shows the traceback of an error."""


def main() -> None:
    """Run the verb that the command line names. Exit code 2 for an error of the user's."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    sys.exit(run(arguments, debug=len(arguments) < len(sys.argv) - 1))


def run(arguments: list[str], debug: bool = False) -> int:
    """The exit code of a command line (without the program's name).

    0: done; 2: an error of the user's; 1: a fault of this package; 130: Ctrl-C. ``debug`` lets
    every error through, with its traceback.
    """
    from lumenspark.errors import UserError, first_line, printable

    _print_what_can_be_printed()
    try:
        try:
            return _answer(arguments)
        finally:
            sys.stdout.flush()  # here, so that a pipe without a reader is noticed here
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, UserError):
            print(f"lumenspark: {printable(error)}", file=sys.stderr)
            return 2
        if isinstance(error, OSError):
            print(f"lumenspark: {_about_the_system(error)}", file=sys.stderr)
            return 2
        print(
            f"lumenspark: a fault of lumenspark (--debug shows where): "
            f"{type(error).__name__}: {first_line(error)}",
            file=sys.stderr,
        )
        return 1


def _about_the_system(error: OSError) -> str:
    """A full disk, a file that may not be read or written: which, why, and what to do."""
    import errno

    from lumenspark.data.documents import LONGEST_NAME
    from lumenspark.errors import LONGEST_QUOTE, first_line, printable, shortened

    if not error.filename or not error.strerror:
        return f"the system refused ({first_line(error)}): look where the output goes"
    advice = {
        errno.ENOSPC: "make room on that disk",
        errno.EDQUOT: "make room in your quota on that disk",
        errno.EROFS: "that disk can only be read, so name another place",
        errno.EACCES: "change its permissions, or name another place",
    }.get(error.errno or 0, "check the path")
    is_a_path = error.errno != errno.ENAMETOOLONG
    longest = LONGEST_NAME if is_a_path else LONGEST_QUOTE
    name = shortened(printable(os.fsdecode(error.filename)), longest)
    return f"{name}: {error.strerror}; {advice}, and run the command again"


def _print_what_can_be_printed() -> None:
    """Characters that the terminal's encoding lacks are replaced, not an error.

    A program that was started with closed outputs has None in their place, which cannot be written
    to.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _answer(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        width = max(map(len, VERBS))
        verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
        print(HELP.format(verbs=verbs))
        return 0
    if arguments[0] == "--version":
        from lumenspark import __version__

        print(f"lumenspark {__version__}")
        return 0
    return _run_verb(*arguments)


def _run_verb(verb: str, *arguments: str) -> int:
    from lumenspark.errors import UserError, quoted

    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"there is no verb {quoted(verb)}{hint}: lumenspark --help lists them")
    if not _has_current_folder():
        raise UserError("the current folder is gone: change to one that exists")
    module = import_module(f"lumenspark.cli.{verb}")
    return int(module.main(list(arguments)) or 0)


def _has_current_folder() -> bool:
    """Without one, torch's libraries end the process while they are loaded."""
    try:
        os.getcwd()  # noqa: PTH109 (Path.cwd() is the same call)
    except OSError:
        return False
    return True
