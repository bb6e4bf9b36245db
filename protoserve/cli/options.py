"""
What options of several commands have in common.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import typer

__all__ = ["one_of"]


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """
    Make the callback of an option that takes one of some words.
    """

    def check(value: str) -> str:
        if value not in choices:
            close = difflib.get_close_matches(value, choices, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise typer.BadParameter(
                f"{value!r} is not one of {', '.join(choices)}{hint}"
            )
        return value

    return check
