"""The command line: one module per command, which parses, calls and prints."""

import os
import sys
from importlib import import_module

COMMANDS = {
    "train": "train a model from a recipe, evaluate it, write its model card",
    "resume": "resume an interrupted run",
    "sweep": "train a recipe over a grid or search of hyperparameters",
    "evaluate": "measure perplexity and bits per byte of a causal language model",
    "generate": "generate text",
    "inspect": "write an HTML page of a model's attention, activations and heads",
    "compress": "compress a model with low-rank layers",
    "convert": "convert a checkpoint of lumenspark 0.1 to the current format",
    "card": "write or verify the model card of a run",
    "push": "upload a run to the Hugging Face Hub",
    "prepare": "tokenize a corpus ahead of training",
    "runs": "list runs and their results",
    "recipes": "list the built-in recipes",
    "record": "rerun a record of docs/records.md and compare",
    "completion": "print a script for completion in bash, zsh or fish",
}

HELP = """usage: lumenspark COMMAND [ARGUMENTS]      (lumenspark COMMAND --help for its options)

{commands}

First commands (a model: a folder, a run id or its first letters, latest, or a hub id):
  lumenspark train --budget 4m                      on WikiText-2, or on tales without a network
  lumenspark generate latest "There was once"
  lumenspark train --data my-folder --budget 20m    --dry-run estimates time and memory
  lumenspark runs --best
--version prints the version; --debug shows the traceback of an error."""


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    try:
        import signal  # which loads more than this file

        _note_interrupts()
        arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
        code = run(arguments, debug=len(arguments) < len(sys.argv) - 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the process is near
    except KeyboardInterrupt:
        code = _stopped()
    sys.exit(code)


def run(arguments: list[str], debug: bool = False) -> int:
    """Run a command line (without the program name) and return its exit code.

    0: success; 1: internal error; 2: user error; 130: Ctrl-C. ``debug`` re-raises every error.
    """
    from lumenspark.errors import UserError, first_line, printable

    _replace_unprintable_characters()
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()  # raises BrokenPipeError here, not at exit
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:  # as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _interrupts:  # an import that is interrupted may end in any error
            return _stopped()
        if debug:
            raise
        if isinstance(error, UserError):
            print(f"lumenspark: {printable(error)}", file=sys.stderr)
            return 2
        if isinstance(error, OSError):
            print(f"lumenspark: {_os_error_message(error)}", file=sys.stderr)
            return 2
        print(
            f"lumenspark: internal error (--debug shows the traceback): "
            f"{type(error).__name__}: {first_line(error)}",
            file=sys.stderr,
        )
        return 1


_interrupts: list[int] = []
"""The signals of Ctrl-C that this process has received, outside of a training."""


def _note_interrupts() -> None:
    """Make Ctrl-C raise KeyboardInterrupt and be noted, unless the process ignores it.

    An interrupt inside a callback, where Python ignores exceptions, ends the process at once.
    """
    import signal

    def interrupt(number: int, _: object) -> None:
        _interrupts.append(number)
        raise KeyboardInterrupt

    def report(ignored: "sys.UnraisableHookArgs") -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            os._exit(_stopped())
        sys.__unraisablehook__(ignored)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = report


def check_interrupts() -> None:
    """Raise KeyboardInterrupt again, if an import has swallowed it."""
    if _interrupts:
        raise KeyboardInterrupt


def _stopped() -> int:
    """Say that the command was stopped, and return its exit code."""
    print("lumenspark: stopped by Ctrl-C", file=sys.stderr, flush=True)
    return 130


def _os_error_message(error: OSError) -> str:
    """The file, the reason and the fix, as for a full disk or a missing permission."""
    import errno

    from lumenspark.data.documents import LONGEST_NAME
    from lumenspark.errors import LONGEST_QUOTE, first_line, printable, shortened

    if not error.filename or not error.strerror:
        return f"system error ({first_line(error)}): check the output path"
    advice = {
        errno.ENOSPC: "free some space on that disk",
        errno.EDQUOT: "free some of your quota on that disk",
        errno.EROFS: "that disk is read-only, so use another path",
        errno.EACCES: "change its permissions, or use another path",
    }.get(error.errno or 0, "check the path")
    is_a_path = error.errno != errno.ENAMETOOLONG
    longest = LONGEST_NAME if is_a_path else LONGEST_QUOTE
    name = shortened(printable(os.fsdecode(error.filename)), longest)
    return f"{name}: {error.strerror}; {advice}, and run the command again"


def _replace_unprintable_characters() -> None:
    """Make printing never fail: characters outside the terminal's encoding are replaced.

    Streams that are None (a process started with closed outputs) go to the null device.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
        print(HELP.format(commands=commands))
        return 0
    if arguments[0] == "--version":
        from lumenspark import __version__

        print(f"lumenspark {__version__}")
        return 0
    return _run_command(*arguments)


def _run_command(command: str, *arguments: str) -> int:
    from lumenspark.errors import UserError, did_you_mean, quoted

    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        raise UserError(f"unknown command {quoted(command)}{hint}: lumenspark --help lists them")
    if not _has_current_folder():
        raise UserError("the current folder no longer exists: change to another one")
    module = import_module(f"lumenspark.cli.{command}")
    check_interrupts()
    return int(module.main(list(arguments)) or 0)


def _has_current_folder() -> bool:
    """Whether the current folder exists: if it was deleted, loading torch ends the process."""
    try:
        os.getcwd()  # noqa: PTH109 (Path.cwd() is the same call)
    except OSError:
        return False
    return True
