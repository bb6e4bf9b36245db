"""
Values that stand for themselves: numbers, text, bytes, members of enums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from protoserve.codec.enums import EnumField
from protoserve.codec.fault import build_fault
from protoserve.plain._errors import PlainError, Unfit, nearest, shown
from protoserve.plain._place import Place
from protoserve.plain._types import as_bytes, as_member, as_text
from protoserve.plain._writing import to_plain

__all__ = [
    "constant",
    "enum",
    "flags",
    "integer",
    "mapped",
    "number",
    "python_enum",
    "raw",
    "text",
    "truth",
]


def integer(node: Any, plain: Any, place: Place) -> Any:
    if isinstance(plain, str):
        try:
            plain = int(plain, 0)  # 0x10 is no JSON, but a number all the same
        except ValueError:
            raise _no_number(node, plain, place) from None
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise _no_number(node, plain, place)
    return plain


def _no_number(node: Any, plain: Any, place: Place) -> Unfit:
    fault = build_fault(node, TypeError(), plain, place.path)
    return Unfit(place.path, fault.expected, shown(plain))


def number(node: Any, plain: Any, place: Place) -> Any:
    code = node.fmtstr[-1]
    if code == "?":
        return truth(node, plain, place)
    if code not in "efd":
        return integer(node, plain, place)
    if isinstance(plain, int | float | str) and not isinstance(plain, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(plain)
    raise _no_number(node, plain, place)


def truth(_node: Any, plain: Any, place: Place) -> bool:
    if plain not in (False, True):
        raise Unfit(place.path, "true or false", shown(plain))
    return bool(plain)


def raw(_node: Any, plain: Any, place: Place) -> bytes:
    return as_bytes(plain, place.path)


def text(_node: Any, plain: Any, place: Place) -> str:
    return as_text(plain, place.path)


def python_enum(node: EnumField, plain: Any, place: Place) -> Any:
    member = as_member(node.members, plain, place.path)
    if member is not None:
        return member
    number = place.read(node.subcon, plain, place)
    member = node.member(number)
    if member is None and node.strict:
        raise Unfit(place.path, node._choices(), shown(plain))
    return number if member is None else member


def enum(node: Any, plain: Any, place: Place) -> Any:
    """
    Read a value of Construct's own `Enum`.
    """
    if isinstance(plain, str) and plain in node.encmapping:
        return node._decode(node.encmapping[plain], place.context, place.path)
    try:
        number = place.read(node.subcon, plain, place)
    except Unfit:
        raise _unknown_name(plain, map(str, node.encmapping), place) from None
    return node._decode(number, place.context, place.path)


def flags(node: Any, plain: Any, place: Place) -> Any:
    """
    Read a value of Construct's own `FlagsEnum`.
    """
    if isinstance(plain, Mapping):
        names = [name for name, is_set in plain.items() if is_set]
    elif isinstance(plain, list | str):
        names = plain.split("|") if isinstance(plain, str) else plain
    else:
        number = place.read(node.subcon, plain, place)
        return node._decode(number, place.context, place.path)
    for name in names:
        if name not in node.flags:
            raise _unknown_name(name, node.flags, place)
    number = node._encode({str(name): True for name in names}, None, place.path)
    return node._decode(number, place.context, place.path)


def _unknown_name(plain: Any, names: Any, place: Place) -> Unfit:
    known = [str(name) for name in names]
    few = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
    close = nearest(plain, known) if isinstance(plain, str) else None
    return Unfit(place.path, f"one of {few}", shown(plain), close)


def mapped(node: Any, plain: Any, place: Place) -> Any:
    """
    Read a value of a `Mapping`: the one that is written like this.
    """
    for value in node.decmapping.values():
        if to_plain(value) == plain:
            return value
    raise _unknown_name(plain, map(to_plain, node.decmapping.values()), place)


def constant(node: Any, plain: Any, place: Place) -> Any:
    value = place.read(node.subcon, plain, place)
    if value != node.value:
        raise PlainError(place.path, f"{to_plain(node.value)!r}, always", shown(plain))
    return value
