"""
What declarations of framings are checked for, and how they complain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn

import attrs

from protoserve.errors import DeclarationError, InvalidMessageError
from protoserve.types import ChecksumFunction

__all__ = [
    "callable_",
    "check_size",
    "checksum",
    "checksum_size",
    "flag",
    "integer",
    "known_size",
    "natural",
    "pack_checksum",
    "positive",
    "refuse",
    "several",
    "unfit",
]

_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def refuse(owner: Any, field: str, expected: str, found: Any) -> NoReturn:
    """
    Refuse a declaration, naming the field, the expectation and the value.
    """
    name = f"{type(owner).__name__}.{field}"
    raise DeclarationError(f"{name}: expected {expected}, found {found!r}")


def unfit(expected: str, found: str) -> NoReturn:
    """
    Refuse to encode a frame.
    """
    raise InvalidMessageError("frame", expected, found)


def check_size(size: int, limit: int) -> None:
    """
    Refuse to encode a frame that the peer would refuse.
    """
    if size > limit:
        unfit(f"at most {limit} bytes", f"{size} bytes")


def _whole(expected: str, least: int | None) -> _Validator:
    def check(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or (least is not None and value < least)
        ):
            refuse(owner, attribute.name, expected, value)

    return check


integer = _whole("a whole number", None)
natural = _whole("a whole number from 0", 0)
positive = _whole("a whole number from 1", 1)


def flag(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """
    Demand True or False.
    """
    if not isinstance(value, bool):
        refuse(owner, attribute.name, "True or False", value)


def callable_(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """
    Demand something that can be called.
    """
    if not callable(value):
        refuse(owner, attribute.name, "a callable", value)


def several(value: Any) -> Any:
    """
    Make one bytes object a tuple of one, and a sequence of them a tuple.
    """
    if isinstance(value, bytes):
        return (value,)
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def checksum(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """
    Demand a checksum function, or None.
    """
    if value is not None and not callable(value):
        refuse(owner, attribute.name, "a callable, or None", value)


def pack_checksum(number: int, size: int, order: Literal["big", "little"]) -> bytes:
    """
    Write a checksum for a frame that is encoded.
    """
    try:
        return number.to_bytes(size, order)
    except OverflowError:
        unfit(f"a checksum that fits into {size} bytes", f"{number:#x}")


def known_size(function: ChecksumFunction | None) -> int:
    """
    Give a checksum's size in bytes; 0 for none, and where it is not known.
    """
    return int(getattr(function, "size", 0))


def checksum_size(field: str) -> _Validator:
    """
    Demand the size of the checksum that another field holds.
    """

    def check(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        natural(owner, attribute, value)
        if bool(value) != (getattr(owner, field) is not None):
            expected = (
                f"the bytes of {field}, which are known for protoserve.checksums only"
            )
            refuse(owner, attribute.name, expected, value)

    return check
