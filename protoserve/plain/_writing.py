"""
Values of messages as what JSON has.

What a value is tells how it is written, without a look at the declaration. The one
exception: where a format chooses between message classes by something that the
message does not hold, the class is named, or nothing could read the value back.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import construct

from protoserve.codec.nodes import children
from protoserve.codec.record import Record
from protoserve.errors import ProtoserveError

__all__ = ["CLASS", "to_plain"]

CLASS = "message"
"""The key that names a message's class, where that has to be said."""


def to_plain(value: Any) -> Any:
    r"""
    Bring a message, or any value that one holds, to what JSON has.

    Args:
        value: enums become their members' names (flags with ``|`` between them,
            unknown numbers stay numbers), bytes hex text, messages and structures
            dicts, not-a-number and the infinities text, dates and addresses text.
            A message has all its fields, those that are filled in on build included.

    >>> to_plain([1.5, b"\x0a\x0b", float("nan")])
    [1.5, '0a0b', 'NaN']
    """
    write = _WRITERS.get(type(value))
    return _other(value) if write is None else write(value)


def _other(value: Any) -> Any:
    """
    Write a value whose class is not in the table.
    """
    if isinstance(getattr(type(value), "_record", None), Record):
        return _message(value)
    if isinstance(value, enum.Enum):
        return _flags(value) if isinstance(value, enum.Flag) else value.name
    for kind, write in _KINDS.items():
        if isinstance(value, kind):
            return write(value)
    if attrs.has(type(value)):
        return {a.name: to_plain(getattr(value, a.name)) for a in attrs.fields(type(value))}  # fmt: skip
    return str(value)


def _message(message: Any) -> dict[str, Any]:
    cls = type(message)
    named = _named_fields(cls)
    plain = {}
    for field in cls._record.fields:
        if field.hidden:
            continue
        try:
            value = getattr(message, field.name)
        except (AttributeError, ProtoserveError):
            continue  # never parsed, or follows from fields that cannot be built
        plain[field.name] = _with_class(value) if field.name in named else to_plain(value)  # fmt: skip
    return plain


def _with_class(value: Any) -> Any:
    """
    Write a value whose messages tell their class.
    """
    if isinstance(value, list | tuple):
        return [_with_class(each) for each in value]
    plain = to_plain(value)
    record = getattr(type(value), "_record", None)
    if isinstance(record, Record) and CLASS not in plain:
        return {CLASS: record.record_name, **plain}
    return plain


_named: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()


def _named_fields(cls: Any) -> frozenset[str]:
    found = _named.get(cls)
    if found is None:
        found = _named[cls] = frozenset(
            field.name
            for field in cls._record.fields
            if _is_ambiguous(field.construct, set())
        )
    return found


def _is_ambiguous(node: Any, seen: set[int]) -> bool:
    """
    Say whether only the bytes tell which message a format holds.
    """
    if id(node) in seen or isinstance(node, Record):
        return False
    seen.add(id(node))
    if isinstance(node, construct.LazyBound):
        return _is_ambiguous(node.subconfunc(), seen)
    key = getattr(node, "keyfunc", getattr(node, "condfunc", None))
    blind = isinstance(node, construct.Select) or (
        key is not None and not _reads_fields(key)
    )
    if blind and sum(_is_message(part) for part in children(node)) > 1:
        return True
    return any(_is_ambiguous(part, seen) for part in children(node))


def _reads_fields(key: Any) -> bool:
    """
    Say whether a choice's key follows from fields of the message or around it.
    """
    return isinstance(key, construct.ExprMixin) and "session" not in repr(key)


def _is_message(node: Any) -> bool:
    while isinstance(node, construct.Subconstruct) and not isinstance(node, Record):
        node = node.subcon
    return isinstance(node, Record)


def _flags(value: Any) -> Any:
    """
    Write flags: the member's own name, or those of its bits.
    """
    if value.name in type(value).__members__:
        return value.name
    names = [str(member.name) for member in value]
    known = sum(member.value for member in value)
    rest = value.value & ~known
    if not names:
        return value.value
    return "|".join([*names, str(rest)] if rest else names)


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124 - what NaN is


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    # A leading underscore is Construct's own, as in the _io of a Container.
    return {
        str(key): to_plain(each)
        for key, each in value.items()
        if not str(key).startswith("_")
    }


def _list(value: Any) -> list[Any]:
    # Lists of numbers are long, so numbers do not go the long way.
    return [each if type(each) is int else to_plain(each) for each in value]


def _set(value: Any) -> list[Any]:
    return sorted(_list(value), key=str)


_Writer = Callable[[Any], Any]

_WRITERS: dict[type, _Writer] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: lambda value: value,
    str: lambda value: value,
    bytes: bytes.hex,
    float: _float,
    list: _list,
    dict: _mapping,
    construct.ListContainer: _list,
    construct.Container: _mapping,
}
"""For most values the class itself is found here."""

_KINDS: dict[Any, _Writer] = {
    str: str,
    int: int,
    float: _float,
    bytes | bytearray | memoryview: lambda value: bytes(value).hex(),
    Mapping: _mapping,
    list | tuple: _list,
    set | frozenset: _set,
    dt.datetime | dt.date | dt.time: lambda value: value.isoformat(),
    dt.timedelta: dt.timedelta.total_seconds,
}
"""Else the first that it is an instance of."""
