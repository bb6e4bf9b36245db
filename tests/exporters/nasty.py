"""
A protocol whose names and types are as awkward as can be, and yet legal.
"""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NewType

from attrs import validators
from construct import (
    Adapter,
    Array,
    Bytes,
    Const,
    Default,
    Float32b,
    GreedyBytes,
    If,
    Int8sb,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    Padding,
    PascalString,
    Prefixed,
    Rebuild,
    Struct,
    len_,
    this,
)

from protoserve import LengthPrefixed, Message, Protocol, Request, count_of, wire

Celsius = NewType("Celsius", float)


class Color(enum.IntEnum):
    RED = 1
    GREEN = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Address(Adapter):
    def _decode(self, obj, context, path):
        return ipaddress.IPv4Address(obj)

    def _encode(self, obj, context, path):
        return obj.packed


class Moment(Adapter):
    def _decode(self, obj, context, path):
        return dt.datetime.fromtimestamp(obj, dt.UTC)

    def _encode(self, obj, context, path):
        return int(obj.timestamp())


class Head(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)
    unit: int = wire(Int8ub, default=1)


class Done(Message):
    """It is done."""


class Refused(Message, error=True):
    code: int = wire(Int8ub)


class Broken(Message, error=True):
    """Any request may be answered by it."""


class Point(Message):
    class Kind(enum.IntEnum):
        NEAR = 0
        FAR = 1

    x: int = wire(Int8sb)
    kind: Kind | int = wire(Int8ub, enum=Kind, default=Kind.NEAR)


class Close(Request[Done]):
    """Clashes with the client's own."""

    session: int = wire(Int8ub, default=0)


class Stats(Request[Done]):
    """Clashes with an attribute."""


class Import(Request[Done]):
    """Clashes with a keyword."""

    header: int = wire(Int8ub)
    timeout: int = wire(Int8ub, default=3)
    request: int = wire(Int8ub, default=4)
    given: list[int] = wire(Array(2, Int8ub), factory=lambda: [1, 2])


class List(Request[Done | Point]):
    """Clashes with a builtin, and has lists.

    A second paragraph, with a \\ and \"\"\" in it.

    >>> "no part of it"
    """

    count: int = wire(Int8ub, value=count_of("list"))
    table: Annotated[Sequence[Sequence[int]], "nested"] = wire(
        Array(2, Array(2, Int8ub))
    )
    list: Sequence[Point] = wire(Array(this.count, Point.construct), factory=tuple)


class read(Message):
    """Is only sent."""

    type: Literal["a", "b"] = wire(PascalString(Int8ub, "ascii"), default="a")


class Read(Request["Later"]):
    """Has the same name in snake case as another, and is defined before its answer."""

    id: Color = wire(Int8ub, enum=Color, strict=True, default=Color.GREEN)
    rights: Access = wire(
        Int8ub, enum=Access, default=Access.READ | Access.WRITE, doc="both, by default."
    )


class Refusable(Request[Done | Refused], kw_only=True):
    """May be refused."""

    host: ipaddress.IPv4Address = wire(Address(Bytes(4)), doc="who asks")
    at: dt.datetime = wire(Moment(Int32ub), unit="s")
    celsius: Celsius = wire(Float32b, unit="°C", default=Celsius(math.nan))
    quotes: bytes = wire(Bytes(4), default=b"'\"\\\x00")
    share: float = wire(Float32b, default=1, validator=validators.le(100))
    wide: int = wire(Int64ub, default=0)
    names: list = wire(Array(0, Int8ub), factory=list)
    pairs: dict | tuple | None = wire(If(this.wide < 0, Int8ub), default=None)
    extra: Any = wire(GreedyBytes, default=b"")


class OnlyRefused(Request[Refused]):
    """Nothing else may answer it."""


class Later(Message):
    value: int = wire(Int8ub)


class Frozen(Request[Done], frozen=True):
    magic: bytes = wire(Const(b"\x01"))
    size: int = wire(Rebuild(Int8ub, len_(this.data)))
    data: bytes = wire(Bytes(this.size), kw_only=True)
    seven: int = wire(Default(Int8ub, 7))
    _pad: None = wire(Padding(1))
    place: Point | None = wire(If(this.size > 2, Point.construct), default=None)
    points: list[Point] = wire(Array(0, Point.construct), factory=list)


class AVeryLongNameForARequestThatNobodyWouldWriteByHandButAGeneratorMight(
    Request[Done | Point | Later | Close | Stats | Frozen | Refusable | Refused]
):
    an_argument_with_a_name_that_leaves_no_room_for_much_else_in_its_line: (
        dict[str, list[tuple[int, str]]] | list[Point | Done | Later] | bytes
    ) = wire(Prefixed(Int8ub, GreedyBytes), default=b"nothing much")


Dynamic = Message.from_construct("Dynamic", Struct("x" / Int8ub, "y" / Int16ub))

nasty = Protocol(
    "nasty-thing 2",
    framing=LengthPrefixed(Int16ub),
    header=Head,
    tag="kind",
    correlate="sequence",
    requests={
        1: Close,
        2: Import,
        3: List,
        4: Read,
        5: Refusable,
        6: OnlyRefused,
        7: Frozen,
        8: AVeryLongNameForARequestThatNobodyWouldWriteByHandButAGeneratorMight,
        9: Dynamic,
        10: Stats,
    },
    responses={
        128: Done,
        129: Refused,
        130: Point,
        131: Later,
        132: Close,
        133: Stats,
        134: Frozen,
        135: Refusable,
        136: Broken,
    },
    messages={20: read},
    doc='A "nasty" one.',
)
