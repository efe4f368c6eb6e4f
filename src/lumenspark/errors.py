"""The one exception that a user can cause."""


class UserError(Exception):
    """What a user did cannot work. The message is one sentence: what was wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
