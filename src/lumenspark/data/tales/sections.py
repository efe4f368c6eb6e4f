"""The text resources of the stories: sections of lines."""

from importlib import resources


def sections(file: str) -> dict[str, tuple[str, ...]]:
    """The lines of each ``[section]`` of a resource; not its comments (``#``)."""
    text = (resources.files("lumenspark.data.tales") / file).read_text("utf-8")
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = lines.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            section.append(line)
    return {name: tuple(section) for name, section in lines.items()}


def cells(line: str, separator: str = "|") -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.split(separator))
