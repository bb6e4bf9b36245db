"""
Which numbers a construct can hold, and which ones a validator accepts.
"""

from __future__ import annotations

import operator
import struct
from typing import Any

import construct
from attrs import validators
from construct import core

__all__ = ["bounds_of", "checked_bounds", "float_width"]

_VARINT_BITS = 64
"""What a VarInt of ten bytes is usually held to."""

_NUMBER: Any = type(validators.ge(0))
_OPTIONS: Any = type(validators.in_([0]))
_ALL: Any = type(validators.and_(validators.ge(0)))


def float_width(node: Any) -> Any:
    """
    Give a float's width in bits, or `None` for what is no float.
    """
    return {"e": 16, "f": 32, "d": 64}.get(node.fmtstr[-1])


def bounds_of(node: Any, context: Any) -> tuple[int, int] | None:
    """
    Give the smallest and the largest integer that a construct can hold.

    Args:
        node: any construct.
        context: for sizes that depend on it.

    Returns:
        Both, or `None` if it holds no integers, or none at all.
    """
    while isinstance(node, construct.Renamed | construct.Default):
        node = node.subcon
    if isinstance(node, construct.FormatField):
        code = node.fmtstr[-1]
        if code in "efd?":
            return None
        return _span(8 * struct.calcsize(node.fmtstr), signed=code.islower())
    if isinstance(node, construct.BytesInteger | construct.BitsInteger):
        try:
            length = int(core.evaluate(node.length, context))
        except Exception:
            return None
        unit = 8 if isinstance(node, construct.BytesInteger) else 1
        return _span(unit * length, signed=node.signed) if 0 < length < 4096 else None
    if isinstance(node, type(construct.VarInt)):
        return _span(_VARINT_BITS, signed=False)
    if isinstance(node, type(construct.ZigZag)):
        return _span(_VARINT_BITS, signed=True)
    return None


def _span(bits: int, *, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def checked_bounds(
    validator: Any,
) -> tuple[int | None, int | None, list[Any]]:
    """
    Read what attrs's own validators say about integers.

    Returns:
        The smallest and the largest value, `None` where there is no limit, and
        the only values accepted, if they are listed.
    """
    low: int | None = None
    high: int | None = None
    options: list[Any] = []
    parts = validator._validators if isinstance(validator, _ALL) else (validator,)
    for part in parts:
        if isinstance(part, _OPTIONS):
            options = list(part.options)
        if isinstance(part, _NUMBER) and isinstance(part.bound, int):
            compare, bound = part.compare_func, part.bound
            if compare in (operator.ge, operator.gt):
                low = bound + (compare is operator.gt)
            else:
                high = bound - (compare is operator.lt)
    return low, high, options
