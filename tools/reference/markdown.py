"""Markdown from tables and docstrings."""

import inspect
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from enum import Enum
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):\n", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+): ", re.MULTILINE)


def one_line(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


def cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return one_line(text).replace("|", "\\|")


def table(*columns: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Return the lines of a table."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(map(cell, row)) + " |"
    yield ""


def shown(value: object) -> str:
    """Return a default for readers."""
    match value:
        case Enum():
            return f"`{value.value}`"
        case None | "" | () | {}:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return str(value)
        case str() | int() | float():
            return f"`{value}`"
    return ""


class Docstring:
    """A docstring in Google style.

    Attributes:
        text: The paragraphs before the first section.
        described: The meaning of each argument or attribute, by its name.
    """

    def __init__(self, documented: Any) -> None:
        """Read the docstring of a class or function."""
        self.text, *sections = _SECTION.split(inspect.getdoc(documented) or "")
        self.described: dict[str, str] = {}
        for name, section in zip(sections[::2], sections[1::2], strict=True):
            if name in ("Args", "Attributes"):
                _, *entries = _ENTRY.split(section)
                described = map(one_line, entries[1::2])
                self.described |= zip(entries[::2], described, strict=True)
