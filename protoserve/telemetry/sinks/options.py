"""
Sinks' URLs: what follows the scheme, and the options behind ``?``.

Every option is declared with what reads it, and has a default, so one that is misspelt
is told with the nearest, and nobody waits a day for a limit that was never set.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from protoserve.errors import DeclarationError

__all__ = ["count", "nearest", "one_of", "seconds", "size", "split"]


def nearest(word: str, known: Iterable[str]) -> str:
    """
    Give a hint to what may have been meant.
    """
    known = sorted(known)
    if close := difflib.get_close_matches(word, known, 1):
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(known)}"


def count(text: str) -> int:
    """
    Read a whole number above 0.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError("a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """
    Read a time in seconds, above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("a number of seconds above 0")
    return value


_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int:
    """
    Read a number of bytes, as in ``64MiB``, ``64M`` or ``67108864``.
    """
    lower = text.lower().removesuffix("ib").removesuffix("b")
    digits = lower.rstrip("kmgt")
    factor = _FACTORS.get(lower[len(digits) :])
    if factor is None or not (digits.isascii() and digits.isdigit()) or not int(digits):
        raise ValueError("a number of bytes, as in 64MiB")
    return int(digits) * factor


def one_of(*words: str) -> Callable[[str], str]:
    """
    Read one of some words.
    """

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return read


def split(
    url: str, options: Mapping[str, Callable[[str], Any]]
) -> tuple[str, dict[str, Any]]:
    """
    Split a URL into what stands between scheme and ``?``, and its options.

    Args:
        url: ``SCHEME:WHERE?NAME=VALUE&NAME=VALUE``.
        options: what reads the value of each option; a `ValueError` says what is expected.

    Raises:
        DeclarationError: nothing is said of where, or an option is none.
    """
    scheme, _, rest = url.partition(":")
    where, _, query = rest.partition("?")
    if not where:
        raise DeclarationError(f"{scheme}: expected {scheme}:WHERE, found nothing")
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in options:
            hint = nearest(name, [*options, "max_rows", "max_age"])
            raise DeclarationError(f"{scheme}: unknown option {name!r}; {hint}")
        try:
            values[name] = options[name](text)
        except ValueError as exc:
            raise DeclarationError(
                f"{scheme}: option {name}: expected {exc}, found {text!r}"
            ) from exc
    return unquote(where), values
