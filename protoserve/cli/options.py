"""
What options of several commands have in common.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from math import inf

import typer

__all__ = ["MODES", "above_zero", "one_of", "seconds"]

MODES = ("threads", "fork", "single", "pool", "loop", "prefork", "batch")
"""Those of `protoserve.serve`, which takes long to import, and help is to be quick."""


def one_of(choices: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """
    Make the callback of an option that takes one of some words, or is not given.
    """

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            close = difflib.get_close_matches(value, choices, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise typer.BadParameter(
                f"{value!r} is not one of {', '.join(choices)}{hint}"
            )
        return value

    return check


def above_zero(value: float | None) -> float | None:
    """
    Check an option that is a number above 0, or not given.
    """
    if value is not None and not 0 < value < inf:
        raise typer.BadParameter(f"expected a number above 0, not {value}")
    return value


_UNITS = {
    "": 1.0,
    "s": 1.0,
    "ms": 0.001,
    "us": 1e-6,
    "µs": 1e-6,
    "m": 60.0,
    "h": 3600.0,
}


def seconds(value: str | float) -> float:
    """
    Read an option that is a time: ``10s``, ``500ms``, ``2m``; seconds by default.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-zµ]*)", str(value))
    if found is None or found[2] not in _UNITS:
        raise typer.BadParameter(f"expected a time such as 10s or 500ms, not {value!r}")
    return float(found[1]) * _UNITS[found[2]]
