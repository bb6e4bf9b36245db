"""
The parts of a collectd datagram, as they are on the wire.

A part has its type and its length before it. Parts set what holds for those behind
them (the host, the time, the plugin), and a `Values` part is what it is all for.
Texts end with a zero. collectd cuts them where its own limit is, perhaps inside a
letter: such bytes, which are no UTF-8, are kept as lone surrogates, as Python does
with the names of files.

Gauges are little-endian, everything else is big-endian. Times are whole seconds or,
since collectd 5, multiples of 2**-30 s.

Source: https://github.com/collectd/collectd/wiki/Binary-protocol.
"""

from __future__ import annotations

import enum
import struct
from typing import Any

from construct import (
    Array,
    Bytes,
    ExprAdapter,
    FixedSized,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int64ub,
    Peek,
    Prefixed,
    Switch,
    this,
)

from protoserve import Message, count_of, length_of, wire

__all__ = [
    "LONGEST_NAME",
    "Encrypted",
    "Part",
    "PartType",
    "Severity",
    "Signature",
    "ValueType",
    "Values",
    "name_bytes",
]


class PartType(enum.IntEnum):
    """
    What a part is.
    """

    HOST = 0x0000
    TIME = 0x0001
    PLUGIN = 0x0002
    PLUGIN_INSTANCE = 0x0003
    TYPE = 0x0004
    TYPE_INSTANCE = 0x0005
    VALUES = 0x0006
    INTERVAL = 0x0007
    TIME_HR = 0x0008
    INTERVAL_HR = 0x0009
    MESSAGE = 0x0100
    SEVERITY = 0x0101
    SIGNATURE = 0x0200
    ENCRYPTION = 0x0210


class ValueType(enum.IntEnum):
    """
    What a value means (types of data sources in collectd).
    """

    COUNTER = 0
    GAUGE = 1
    DERIVE = 2
    ABSOLUTE = 3


class Severity(enum.IntEnum):
    """
    How grave a notification is.
    """

    FAILURE = 1
    WARNING = 2
    OKAY = 4


LONGEST_NAME = 512
"""
Bytes of a name: four times what collectd has room for (its DATA_MAX_NAME_LEN).

Each value's row has all names, so that a long one in a datagram of thousands of
values would take a hundred megabytes.
"""

_FORMS = {ValueType.GAUGE: "<d", ValueType.DERIVE: ">q"}
"""The others, unknown ones among them, are unsigned."""


def _numbers(data: bytes, context: Any) -> list[float]:
    return [
        struct.unpack_from(_FORMS.get(kind, ">Q"), data, 8 * i)[0]
        for i, kind in enumerate(context.types)
    ]


def _packed(values: list[float], context: Any) -> bytes:
    if len(values) != len(context.types):
        raise ValueError(f"expected {len(context.types)} values, got {len(values)}")
    return b"".join(
        struct.pack(_FORMS.get(kind, ">Q"), value)
        for kind, value in zip(context.types, values, strict=True)
    )


class Values(Message):
    """
    What was measured at one moment.
    """

    count: int = wire(Int16ub, value=count_of("types"))
    types: list[int] = wire(
        Array(this.count, Int8ub), factory=list, doc="each a `ValueType`"
    )
    values: list[float] = wire(
        ExprAdapter(Bytes(8 * this.count), _numbers, _packed),
        factory=list,
        doc="gauges are floats, the others whole numbers",
    )


def name_bytes(text: str) -> bytes:
    """
    Give the bytes of a text, those among them that are no UTF-8 as they were.
    """
    return text.encode("utf-8", "surrogateescape")


def _name(data: bytes) -> str:
    if len(data) > LONGEST_NAME:
        raise ValueError(f"expected at most {LONGEST_NAME} bytes, found {len(data)}")
    return data.decode("utf-8", "surrogateescape")


def _unended(data: bytes) -> bytes:
    if not data.endswith(b"\0"):
        raise ValueError("expected a text that ends with a zero")
    return data[:-1]


_Name = ExprAdapter(
    GreedyBytes,
    lambda data, _context: _name(_unended(data)),
    lambda text, _context: name_bytes(text) + b"\0",
)

_Text = ExprAdapter(
    GreedyBytes,
    lambda data, _context: _unended(data).decode("utf-8", "surrogateescape"),
    lambda text, _context: name_bytes(text) + b"\0",
)


def _user(construct: Any) -> ExprAdapter:
    return ExprAdapter(
        construct,
        lambda data, _context: _name(data),
        lambda text, _context: name_bytes(text),
    )


class Signature(Message):
    """
    Who says so: HMAC-SHA-256 over the user's name and all that follows.
    """

    mac: bytes = wire(Bytes(32))
    username: str = wire(_user(Bytes(this._.length - 36)))
    covered: bytes | None = wire(
        Peek(GreedyBytes), default=None, doc="what it covers, apart from the name"
    )


class Encrypted(Message):
    """
    Parts that only those read who have the user's password: AES-256 in mode OFB.
    """

    username: str = wire(_user(Prefixed(Int16ub, GreedyBytes)))
    iv: bytes = wire(Bytes(16))
    ciphertext: bytes = wire(GreedyBytes, doc="SHA-1 of the parts, and the parts")


_CONTENTS = {
    PartType.HOST: _Name,
    PartType.TIME: Int64ub,
    PartType.PLUGIN: _Name,
    PartType.PLUGIN_INSTANCE: _Name,
    PartType.TYPE: _Name,
    PartType.TYPE_INSTANCE: _Name,
    PartType.VALUES: Values.construct,
    PartType.INTERVAL: Int64ub,
    PartType.TIME_HR: Int64ub,
    PartType.INTERVAL_HR: Int64ub,
    PartType.MESSAGE: _Text,
    PartType.SEVERITY: Int64ub,
    PartType.ENCRYPTION: Encrypted.construct,
}


class Part(Message):
    """
    One part; `value` is a text, a number, `Values`, `Signature`, `Encrypted` or bytes.
    """

    type: PartType | int = wire(Int16ub, enum=PartType)
    length: int = wire(Int16ub, value=length_of("type", "value"), unit="bytes")
    value: Any = wire(
        Switch(
            this.type,
            # A signature looks at what is behind it, and so cannot be bounded.
            {PartType.SIGNATURE: Signature.construct},
            FixedSized(this.length - 4, Switch(this.type, _CONTENTS, GreedyBytes)),
        )
    )
