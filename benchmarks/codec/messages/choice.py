"""
C: a header of bits, an enum, flags, and a body that the enum decides; three messages.
"""

from __future__ import annotations

import enum
import struct
from typing import Any

import attrs
import construct as c
from construct import this

from benchmarks.codec.case import COMPILED, HAND, INTERPRETED, OURS, Candidate, Case
from protoserve import Message, wire


class Kind(enum.IntEnum):
    """
    Which body follows.
    """

    ping = 1
    data = 2
    error = 3


class Flags(enum.IntFlag):
    """
    Some flags.
    """

    urgent = 1
    ack = 2
    enc = 4
    last = 8


KINDS = {kind.name: kind.value for kind in Kind}
FLAGS = {flag.name: flag.value for flag in Flags}
DATA = [
    struct.pack(">HBBQI", 0x25 << 8 | 9, 1, 3, 1 << 40, 99),
    struct.pack(">HBBIH", 0x17 << 8 | 3, 2, 8, 70_000, 16) + bytes(range(16)),
    struct.pack(">HBBHB", 0x31 << 8 | 200, 3, 1, 404, 9) + b"not found",
]
VALUES = [
    (2, 5, 9, 1, 3, (1 << 40, 99)),
    (1, 7, 3, 2, 8, (70_000, bytes(range(16)))),
    (3, 1, 200, 3, 1, (404, "not found")),
]
BODIES = {1: ("stamp", "nonce"), 2: ("addr", "payload"), 3: ("code", "text")}


class Header(Message, bits=True):
    """
    Sixteen bits.
    """

    version: int = wire(c.Nibble)
    prio: int = wire(c.Nibble)
    hops: int = wire(c.BitsInteger(8))


class Ping(Message):
    """
    The body of a ping.
    """

    stamp: int = wire(c.Int64ub)
    nonce: int = wire(c.Int32ub)


class Data(Message):
    """
    The body of data.
    """

    addr: int = wire(c.Int32ub)
    payload: bytes = wire(c.Prefixed(c.Int16ub, c.GreedyBytes))


class Error(Message):
    """
    The body of an error.
    """

    code: int = wire(c.Int16ub)
    text: str = wire(c.PascalString(c.Int8ub, "utf8"))


class Packet(Message):
    """
    The declaration.
    """

    hdr: Header = wire(Header)
    kind: Kind = wire(c.Int8ub, enum=Kind)
    flags: Flags = wire(c.Int8ub, enum=Flags)
    body: Ping | Data | Error | None = wire(
        c.Switch(
            this.kind,
            {
                Kind.ping: Ping.construct,
                Kind.data: Data.construct,
                Kind.error: Error.construct,
            },
        )
    )


@attrs.define
class HeaderByHand:
    """
    The header, without protoserve.
    """

    version: int
    prio: int
    hops: int


@attrs.define
class PingByHand:
    """
    A body, without protoserve.
    """

    stamp: int
    nonce: int


@attrs.define
class DataByHand:
    """
    A body, without protoserve.
    """

    addr: int
    payload: bytes


@attrs.define
class ErrorByHand:
    """
    A body, without protoserve.
    """

    code: int
    text: str


@attrs.define
class PacketByHand:
    """
    The message, without protoserve.
    """

    hdr: HeaderByHand
    kind: int
    flags: Flags
    body: PingByHand | DataByHand | ErrorByHand | None


_HEAD = struct.Struct(">HBB")
_PING = struct.Struct(">QI")
_DATA = struct.Struct(">IH")
_ERROR = struct.Struct(">HB")
_unpack_head, _pack_head = _HEAD.unpack_from, _HEAD.pack
_unpack_ping, _pack_ping = _PING.unpack_from, _PING.pack
_unpack_data, _pack_data = _DATA.unpack_from, _DATA.pack
_unpack_error, _pack_error = _ERROR.unpack_from, _ERROR.pack
# Calling an enum class costs as much as all the rest; numbers that have no name stay.
_KIND_OF = tuple({int(kind): kind for kind in Kind}.get(i, i) for i in range(256))
_FLAGS_OF = tuple(Flags(i) for i in range(256))


def parse(data: bytes) -> PacketByHand:
    """
    Parse a message, all of it.
    """
    word, kind, flags = _unpack_head(data)
    body: Any
    if kind == 1:
        body = PingByHand(*_unpack_ping(data, 4))
        end = 16
    elif kind == 2:
        address, length = _unpack_data(data, 4)
        end = 10 + length
        body = DataByHand(address, data[10:end])
    elif kind == 3:
        code, length = _unpack_error(data, 4)
        end = 7 + length
        body = ErrorByHand(code, data[7:end].decode())
    else:
        body = None
        end = 4
    if end != len(data):
        raise ValueError(end)
    header = HeaderByHand(word >> 12, word >> 8 & 15, word & 255)
    return PacketByHand(header, _KIND_OF[kind], _FLAGS_OF[flags], body)


def build(o: PacketByHand) -> bytes:
    """
    Build a message.
    """
    header, kind, body = o.hdr, o.kind, o.body
    version, prio, hops = header.version, header.prio, header.hops
    if version >> 4 or prio >> 4 or hops >> 8:
        raise ValueError(header)
    head = _pack_head(version << 12 | prio << 8 | hops, kind, o.flags)
    if kind == 1:
        return head + _pack_ping(body.stamp, body.nonce)
    if kind == 2:
        payload = body.payload
        return head + _pack_data(body.addr, len(payload)) + payload
    if kind == 3:
        text = body.text.encode()
        return head + _pack_error(body.code, len(text)) + text
    return head


_CASES = {
    "ping": c.Struct("stamp" / c.Int64ub, "nonce" / c.Int32ub),
    "data": c.Struct(
        "addr" / c.Int32ub, "payload" / c.Prefixed(c.Int16ub, c.GreedyBytes)
    ),
    "error": c.Struct("code" / c.Int16ub, "text" / c.PascalString(c.Int8ub, "utf8")),
}
_FRONT = (
    "hdr"
    / c.BitStruct("version" / c.Nibble, "prio" / c.Nibble, "hops" / c.BitsInteger(8)),
    "kind" / c.Enum(c.Int8ub, **KINDS),
    "flags" / c.FlagsEnum(c.Int8ub, **FLAGS),
)
FORMAT = c.Struct(*_FRONT, "body" / c.Switch(this.kind, _CASES))
# Construct 2.10.70's compiled Enum leaves the number where Switch looks for the label,
# and then drops the body without a word; so every case stands there under both.
_TWICE = {**_CASES, **{KINDS[name]: body for name, body in _CASES.items()}}
TO_COMPILE = c.Struct(*_FRONT, "body" / c.Switch(this.kind, _TWICE))


def values(o: Any) -> tuple[Any, ...]:
    """
    Bring what any candidate parsed to plain values.
    """
    flags = o.flags
    if not isinstance(flags, int):
        flags = sum(bit for name, bit in FLAGS.items() if flags[name])
    body = tuple(getattr(o.body, name) for name in BODIES[int(o.kind)])
    return o.hdr.version, o.hdr.prio, o.hdr.hops, int(o.kind), int(flags), body


def case() -> Case:
    """
    Make the case.
    """
    for data in DATA:
        bytes(Packet.parse(data))
    compiled = TO_COMPILE.compile()
    return Case(
        "C",
        "bits + enum + flags + switch, 3 messages",
        DATA,
        VALUES,
        values,
        [
            Candidate(HAND, parse, build),
            Candidate(OURS, Packet.parse, Packet.__bytes__),
            Candidate(INTERPRETED, FORMAT.parse, FORMAT.build),
            Candidate(COMPILED, compiled.parse, compiled.build),
        ],
    )
