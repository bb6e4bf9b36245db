"""
Which values a field takes, as far as its format and attrs' own validators say.

A validator that is a function of the user's says nothing that could be read; it is
kept by name, so that at least a change of it can be seen.
"""

from __future__ import annotations

from typing import Any

import attrs
import construct

__all__ = ["Bounds", "bounds_of"]


@attrs.frozen
class Bounds:
    """
    The values that a field takes; `None` where nothing is said.
    """

    least: int | float | None = None
    greatest: int | float | None = None
    shortest: int | None = None
    """Elements, characters or bytes."""
    longest: int | None = None
    others: tuple[str, ...] = ()
    """The names of what else checks it."""

    def __str__(self) -> str:
        """
        Say it in words; empty if there is nothing to say.
        """
        if self.least is not None or self.greatest is not None:
            return _span(self.least, self.greatest)
        if self.shortest is not None or self.longest is not None:
            return f"length {_span(self.shortest, self.longest)}"
        return ""


def bounds_of(subcon: Any, validator: Any) -> Bounds:
    """
    Read what a field takes.

    Args:
        subcon: its format.
        validator: what attrs checks it with, or `None`.

    >>> from attrs import validators
    >>> str(bounds_of(construct.Int16ub, validators.ge(1)))
    '1 to 65535'
    """
    least: Any
    greatest: Any
    least, greatest = _range(subcon)
    shortest, longest = None, None
    others = []
    for each in _validators(validator):
        bound, operator = getattr(each, "bound", None), getattr(each, "compare_op", "")
        step = 1 if isinstance(bound, int) else 0
        if hasattr(each, "min_length"):
            shortest = each.min_length
        elif hasattr(each, "max_length"):
            longest = each.max_length
        elif numbers := _choices(each):
            least, greatest = min(numbers), max(numbers)
            others.append(_name(each))
        elif not isinstance(bound, int | float):
            others.append(_name(each))
        elif operator in (">=", ">"):
            least = bound + step * (operator == ">")
        else:
            greatest = bound - step * (operator == "<")
    return Bounds(least, greatest, shortest, longest, tuple(others))


def _validators(validator: Any) -> list[Any]:
    inner = getattr(validator, "_validators", None)
    if inner is None:
        return [] if validator is None else [validator]
    return [each for part in inner for each in _validators(part)]


def _choices(validator: Any) -> list[int]:
    """
    Give the numbers that a validator chooses from; empty if it is no such.
    """
    options = getattr(validator, "options", ())
    known = isinstance(options, list | tuple | set | frozenset)
    return sorted(options) if known and all(type(o) is int for o in options) else []


def _name(validator: Any) -> str:
    return str(getattr(validator, "__qualname__", None) or repr(validator))


def _range(subcon: Any) -> tuple[int | None, int | None]:
    """
    Give the least and the greatest integer that a plain number can hold.
    """
    while isinstance(subcon, construct.Renamed):
        subcon = subcon.subcon
    if isinstance(subcon, construct.FormatField) and subcon.fmtstr[-1] not in "efd?":
        bits, signed = 8 * subcon.length, subcon.fmtstr[-1].islower()
    elif isinstance(
        subcon, construct.BytesInteger | construct.BitsInteger
    ) and not callable(subcon.length):
        unit = 1 if isinstance(subcon, construct.BitsInteger) else 8
        bits, signed = unit * subcon.length, bool(subcon.signed)
    else:
        return None, None
    if signed:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _span(low: Any, high: Any) -> str:
    if high is None:
        return f"{_number(low)} or more"
    if low is None:
        return f"{_number(high)} at most"
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: Any) -> str:
    """
    Write a bound; those of wide integers as powers of two.
    """
    if isinstance(value, int) and abs(value) >= 1 << 31:
        for power, rest in ((value, ""), (value + 1, "-1")):
            if abs(power).bit_count() == 1:
                sign = "-" if power < 0 else ""
                return f"{sign}2**{abs(power).bit_length() - 1}{rest}"
    return str(value)
