"""
Plain values as people type them: ``questions.0.name=www.example.test``.
"""

from __future__ import annotations

import itertools
import json
from typing import Any, NoReturn

from protoserve.plain._errors import PlainError

__all__ = ["assign", "read_value"]


def read_value(text: str) -> Any:
    """
    Read a value: JSON where it is JSON, else the text itself.

    >>> read_value("[1, 2]"), read_value("www"), read_value('"12"')
    ([1, 2], 'www', '12')
    """
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(word: str) -> NoReturn:
    # Python reads NaN and Infinity as numbers; JSON has neither, so they are text.
    raise ValueError(word)


def assign(mapping: dict[str, Any], path: str, value: Any) -> None:
    """
    Put a value at a place in nested dicts and lists, which are made as needed.

    Args:
        mapping: the outermost dict.
        path: names and, for elements of lists, numbers, joined by dots.
        value: the plain value.

    Raises:
        PlainError: the path contradicts what is there, or leaves a gap in a list.

    >>> fields = {}
    >>> assign(fields, "questions.0.name", "www.example.test")
    >>> fields
    {'questions': [{'name': 'www.example.test'}]}
    """
    steps = path.split(".")
    holder: Any = mapping
    for i, (step, following) in enumerate(itertools.pairwise(steps)):
        empty: Any = [] if following.isdecimal() else {}
        holder = _step(holder, step, ".".join(steps[:i]), empty, keep=True)
    _step(holder, steps[-1], ".".join(steps[:-1]), value, keep=False)


def _step(holder: Any, step: str, path: str, value: Any, *, keep: bool) -> Any:
    """
    Put a value into a dict or list, unless one is there that is kept.

    Returns:
        What is there now.
    """
    if not step:
        raise PlainError(path or "path", "names joined by single dots", "an empty name")
    if isinstance(holder, dict):
        if not keep or step not in holder:
            holder[step] = value
        return holder[step]
    if not isinstance(holder, list):
        raise PlainError(path, f"fields, to set {step!r} in", repr(holder))
    if not step.isdecimal() or int(step) > len(holder):
        highest = f"0 to {len(holder)}" if holder else "0"
        raise PlainError(path, f"the number of an element, {highest}", repr(step))
    number = int(step)
    if number == len(holder):
        holder.append(value)
    elif not keep:
        holder[number] = value
    return holder[number]
