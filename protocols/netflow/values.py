"""
Values of fields, one at a time: bytes of any length to what Python has, and back.

Addresses are text, integers are as long as the field (RFC 7011 section 6.2 lets
exporters leave out zeros in front), and moments are whole numbers since the epoch in
the unit that the element's name says. What cannot be a value of the type is `None`.

`columns` makes the same values of many records at once; a test holds the two equal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

from protocols.netflow.elements import UNTYPED

__all__ = ["NTP_EPOCH", "YEAR_10000", "lengths_of", "plain_kind", "read", "write"]

NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP counts from, to 1970."""

YEAR_10000 = 253_402_300_800
"""Seconds from 1970; no store has later moments."""

_ERA = 1 << 32

_INTEGERS = {
    f"{sign}{bits}": (sign == "signed", bits // 8)
    for sign in ("signed", "unsigned")
    for bits in (8, 16, 32, 64)
}

_WHOLE = tuple(range(1, 9))
_LENGTHS = {
    "float32": (4, 8),
    "float64": (4, 8),
    "boolean": (1,),
    "macAddress": (6,),
    "ipv4Address": (4,),
    "ipv6Address": (16,),
    "dateTimeSeconds": (4,),
    "dateTimeMilliseconds": (8,),
    "dateTimeMicroseconds": (8,),
    "dateTimeNanoseconds": (8,),
}


def lengths_of(kind: str) -> tuple[int, ...] | None:
    """
    Say how many bytes a value may have; `None`: any number.
    """
    return _WHOLE if kind in _INTEGERS else _LENGTHS.get(kind)


def plain_kind(kind: str, length: int) -> str:
    """
    Give the type that a field is read as: bytes, if no value has that length.
    """
    allowed = lengths_of(kind)
    return kind if allowed is None or length in allowed else UNTYPED


def read(kind: str, data: bytes) -> Any:
    """
    Make a value of a field's bytes; `None` if they are none.
    """
    allowed = lengths_of(kind)
    if allowed is not None and len(data) not in allowed:
        return None
    if kind in _INTEGERS:
        return int.from_bytes(data, "big", signed=_INTEGERS[kind][0])
    return _READERS[kind](data)


def write(kind: str, value: Any, length: int | None) -> bytes:
    """
    Make a field's bytes of a value.

    Args:
        kind: the type.
        value: the value, as `read` gives it; bytes are taken as they are.
        length: how many bytes there are to be; `None`: as many as it takes.

    Raises:
        ValueError: it does not fit.
    """
    if isinstance(value, bytes):
        data = value
    elif kind in _INTEGERS:
        signed, size = _INTEGERS[kind]
        try:
            data = int(value).to_bytes(length or size, "big", signed=signed)
        except OverflowError as exc:
            raise ValueError(
                f"expected a {kind} in {length or size} bytes, found {value!r}"
            ) from exc
    else:
        data = _WRITERS[kind](value)
        if kind.startswith("float") and length in (4, 8):
            data = struct.pack(">f" if length == 4 else ">d", value)
    if kind in ("string", UNTYPED) and length is not None:
        data = data.ljust(length, b"\0")
    if length is not None and len(data) != length:
        raise ValueError(f"expected {length} bytes, found {len(data)} ({value!r})")
    return data


def _text(data: bytes) -> str:
    # Fixed fields are filled up with zeros, and no store has zeros in text.
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _ntp(data: bytes, per_second: int) -> int:
    # The nearest one: a fraction is rarely a whole number of them, and exporters cut
    # off what is behind it.
    seconds, fraction = (int.from_bytes(half) for half in (data[:4], data[4:]))
    part = fraction * per_second + _ERA // 2 >> 32
    return (seconds - NTP_EPOCH) % _ERA * per_second + part


def _to_ntp(value: int, per_second: int) -> bytes:
    seconds, part = divmod(value, per_second)
    fraction = (part * _ERA + per_second // 2) // per_second
    return struct.pack(">II", (seconds + NTP_EPOCH) % _ERA, fraction)


def _milliseconds(data: bytes) -> int | None:
    value = int.from_bytes(data)
    return value if value < YEAR_10000 * 1000 else None


_READERS: dict[str, Callable[[bytes], Any]] = {
    UNTYPED: bytes,
    "string": _text,
    "boolean": lambda data: {1: True, 2: False}.get(data[0]),
    "float32": lambda data: struct.unpack(">f" if len(data) == 4 else ">d", data)[0],
    "float64": lambda data: struct.unpack(">f" if len(data) == 4 else ">d", data)[0],
    "macAddress": lambda data: data.hex(":"),
    "ipv4Address": lambda data: inet_ntop(AF_INET, data),
    "ipv6Address": lambda data: inet_ntop(AF_INET6, data),
    "dateTimeSeconds": int.from_bytes,
    "dateTimeMilliseconds": _milliseconds,
    "dateTimeMicroseconds": lambda data: _ntp(data, 1_000_000),
    "dateTimeNanoseconds": lambda data: _ntp(data, 1_000_000_000),
}

_WRITERS: dict[str, Callable[[Any], bytes]] = {
    UNTYPED: bytes,
    "string": lambda value: str(value).encode(),
    "boolean": lambda value: b"\1" if value else b"\2",
    "float32": lambda value: struct.pack(">f", value),
    "float64": lambda value: struct.pack(">d", value),
    "macAddress": lambda value: bytes.fromhex(value.replace(":", "")),
    "ipv4Address": lambda value: inet_pton(AF_INET, value),
    "ipv6Address": lambda value: inet_pton(AF_INET6, value),
    "dateTimeSeconds": lambda value: int(value).to_bytes(4),
    "dateTimeMilliseconds": lambda value: int(value).to_bytes(8),
    "dateTimeMicroseconds": lambda value: _to_ntp(value, 1_000_000),
    "dateTimeNanoseconds": lambda value: _to_ntp(value, 1_000_000_000),
}
