"""
What is wrong with a plain value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from protoserve.errors import InvalidMessageError

__all__ = ["PlainError", "Unfit", "nearest", "shown"]


class PlainError(InvalidMessageError):
    """
    A plain value is not what its field takes.
    """

    __module__ = "protoserve.plain"
    nearest: str | None = None
    """The name that was meant, probably; for names that do not exist."""

    def __init__(
        self, path: str, expected: str, found: str, nearest: str | None = None
    ) -> None:
        super().__init__(path, expected, found)
        self.nearest = nearest

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; did you mean {self.nearest}?" if self.nearest else text


class Unfit(PlainError):  # noqa: N818 - it is told as a PlainError
    """
    The value is of another kind altogether: where there is a choice, not this one.
    """


def nearest(name: str, known: Iterable[str]) -> str | None:
    """
    Give the known name that is closest to one, if any is close.

    >>> nearest("qestions", ["answers", "questions"])
    'questions'
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, 1, 0.5)
    return by_lower[close[0]] if close else None


def shown(value: Any) -> str:
    """
    Write a plain value in an error.
    """
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
