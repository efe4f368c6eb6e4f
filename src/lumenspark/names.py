"""Names from outside (folders, recipes, models, tokens), shown so that they stay text."""


def one_line(text: object) -> str:
    """``text`` with everything that does not print written as an escape: one line, no controls.

    Line breaks, terminal controls, marks that turn the direction of writing, halves of surrogate
    pairs (names of files that are not UTF-8) become such as ``\\n`` and ``\\x1b``.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )
