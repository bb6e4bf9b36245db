"""
Plain values by Python types: what a class's annotations say.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from protoserve.codec.record import Record
from protoserve.plain._errors import PlainError, Unfit, nearest, shown

__all__ = ["FROM_TEXT", "as_bytes", "as_member", "as_text", "by_type"]

FROM_TEXT: dict[type, Callable[[Any], Any]] = {
    ipaddress.IPv4Address: ipaddress.IPv4Address,
    ipaddress.IPv6Address: ipaddress.IPv6Address,
    ipaddress.IPv4Network: ipaddress.IPv4Network,
    ipaddress.IPv6Network: ipaddress.IPv6Network,
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    dt.time: dt.time.fromisoformat,
    dt.timedelta: lambda seconds: dt.timedelta(seconds=seconds),
    decimal.Decimal: decimal.Decimal,
    uuid.UUID: uuid.UUID,
}
"""How values that JSON does not have are read."""

_Message = Callable[[Any, Any, str], Any]
"""Reads a message: its class, the plain value, the path."""


def as_bytes(plain: Any, path: str) -> bytes:
    """
    Read bytes: hex text, with or without ``hex:``, or any text behind ``text:``.
    """
    if isinstance(plain, bytes | bytearray | memoryview):
        return bytes(plain)
    if isinstance(plain, str):
        if plain.startswith("text:"):
            return plain.removeprefix("text:").encode("utf-8", "surrogateescape")
        try:
            return bytes.fromhex(plain.removeprefix("hex:"))
        except ValueError:
            pass
    raise Unfit(
        path, "bytes, as hex:0a0b or text:hello", f"{shown(plain)}, which is no hex"
    )


def as_text(plain: Any, path: str) -> str:
    """
    Read text; whole numbers count as text, as who types 7 need not know of quotes.
    """
    if isinstance(plain, int) and not isinstance(plain, bool):
        return str(plain)
    if not isinstance(plain, str):
        raise Unfit(path, "text (in double quotes where it looks like JSON)", shown(plain))  # fmt: skip
    return str(plain)


def as_member(members: type[enum.Enum], plain: Any, path: str) -> enum.Enum | None:
    """
    Find an enum's member by its name, in any case, or by what it is written as.

    Returns:
        `None` for a value that no name is meant by, such as a number.
    """
    if not isinstance(plain, str):
        return None
    by_name: dict[str, enum.Enum] = {}
    for name, member in members.__members__.items():
        by_name.setdefault(name.lower(), member)
    if plain in members.__members__:
        return members.__members__[plain]
    if plain.lower() in by_name:
        return by_name[plain.lower()]
    if issubclass(members, enum.Flag) and "|" in plain:
        flags: Any = members(0)
        for word in plain.split("|"):
            number = word.strip()
            one: Any = as_member(members, number, path)
            flags |= members(int(number)) if one is None else one
        return typing.cast("enum.Enum", flags)
    if any(isinstance(m.value, str) and m.value == plain for m in members):
        return members(plain)
    if _is_number(plain) or not all(isinstance(m.value, int) for m in members):
        return None
    names = list(members.__members__)
    few = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    raise Unfit(
        path,
        f"a {members.__name__} ({few}) or a number",
        shown(plain),
        nearest(plain, names),
    )


def _is_number(text: str) -> bool:
    try:
        int(text, 0)
    except ValueError:
        return False
    return True


def by_type(kind: Any, plain: Any, path: str, message: _Message) -> tuple[bool, Any]:
    """
    Read a value of a type.

    Args:
        kind: an annotation.
        plain: the plain value.
        path: where it stands.
        message: what reads messages.

    Returns:
        Whether the annotation says enough, and the value.

    Raises:
        PlainError: the value is not of the type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _by_union(inner, plain, path, message)
    if origin is typing.Annotated:
        return by_type(inner[0], plain, path, message)
    if origin is not None:
        return _by_container(origin, inner, plain, path, message)
    if not isinstance(kind, type):
        return False, plain
    if isinstance(getattr(kind, "_record", None), Record):
        return True, message(kind, plain, path)
    if issubclass(kind, enum.Enum):
        member = as_member(kind, plain, path)
        try:
            return True, kind(plain) if member is None else member
        except ValueError:
            raise Unfit(path, f"a {kind.__name__}", shown(plain)) from None
    if kind is types.NoneType:
        if plain is None:
            return True, None
        raise Unfit(path, "null", shown(plain))
    if kind is bytes:
        return True, as_bytes(plain, path)
    if kind is str:
        return True, as_text(plain, path)
    if kind in FROM_TEXT:
        try:
            return True, FROM_TEXT[kind](plain)
        except (ValueError, TypeError, ArithmeticError):
            raise Unfit(path, f"a {kind.__name__}", shown(plain)) from None
    if kind in (bool, int, float):
        return True, _by_number(kind, plain, path)
    if attrs.has(kind):
        return True, _by_attributes(kind, plain, path, message)
    return False, plain


def _by_number(kind: Any, plain: Any, path: str) -> Any:
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    try:
        if kind is not bool and isinstance(plain, str):
            return int(plain, 0) if kind is int else float(plain)
        if isinstance(plain, bool) is (kind is bool) and kind(plain) == plain:
            return kind(plain)
    except (ValueError, TypeError, OverflowError):
        pass
    raise Unfit(path, wanted, shown(plain))


def _by_union(
    kinds: tuple[Any, ...], plain: Any, path: str, message: _Message
) -> tuple[bool, Any]:
    """
    Read a value of the first type that it fits.
    """
    refusal: PlainError | None = None
    for kind in kinds:
        try:
            known, value = by_type(kind, plain, path, message)
        except PlainError as error:
            refusal = refusal or error
        else:
            if known:
                return True, value
    if refusal is not None:
        raise refusal
    return False, plain


def _by_container(
    origin: Any, inner: tuple[Any, ...], plain: Any, path: str, message: _Message
) -> tuple[bool, Any]:
    """
    Read a list, tuple, set or mapping, if its elements' types say enough.
    """
    if not isinstance(origin, type) or not issubclass(origin, Iterable):
        return False, plain
    if issubclass(origin, Mapping):
        if not isinstance(plain, Mapping):
            raise Unfit(path, "values by name", shown(plain))
        pairs = [by_type(inner[-1], v, f"{path}.{k}", message) for k, v in plain.items()]  # fmt: skip
        return all(k for k, _ in pairs), dict(zip(plain, (v for _, v in pairs), strict=True))  # fmt: skip
    if not isinstance(plain, list | tuple):
        raise Unfit(path, "a list", shown(plain))
    types_of = inner if origin is tuple and ... not in inner else inner[:1] * len(plain)
    if len(types_of) != len(plain):
        raise Unfit(path, f"a list of {len(types_of)}", f"one of {len(plain)}")
    read = [
        by_type(kind, each, f"{path}[{i}]", message)
        for i, (kind, each) in enumerate(zip(types_of, plain, strict=True))
    ]
    made = origin if origin in (tuple, set, frozenset) else list
    return all(known for known, _ in read), made(value for _, value in read)


def _by_attributes(kind: Any, plain: Any, path: str, message: _Message) -> Any:
    """
    Read an attrs class that is no message.
    """
    if not isinstance(plain, Mapping):
        raise Unfit(path, f"the fields of a {kind.__name__}, by name", shown(plain))
    annotations = typing.get_type_hints(kind)
    known = {a.name: a for a in attrs.fields(kind) if a.init}
    for name in plain:
        if name not in known:
            expected = f"a field of {kind.__name__} ({', '.join(known)})"
            raise PlainError(path, expected, shown(name), nearest(name, known))
    values = {
        known[n].alias: by_type(annotations.get(n, Any), v, f"{path}.{n}", message)[1]
        for n, v in plain.items()
    }
    try:
        return kind(**values)
    except Exception as exc:
        raise PlainError(path, f"values that {kind.__name__} accepts", str(exc)) from exc  # fmt: skip
