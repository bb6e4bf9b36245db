"""
B: magic, header, string, counted array and what is left, 80 bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import attrs
import construct as c

from benchmarks.codec.case import COMPILED, HAND, INTERPRETED, OURS, Candidate, Case
from protoserve import Message, wire

MAGIC = b"\xab\xcd"
NAME = "sensor/attic/north"
PAIRS = [(i * 700 + 1, 70_000 * i + 5) for i in range(8)]
TAIL = b"\x01\x02\x03\x04\x05\x06"
VALUES = (MAGIC, 2, 777, NAME, PAIRS, TAIL)

_HEAD = struct.Struct(">2sBHH")
_PAIR = struct.Struct(">HI")
DATA = b"".join(
    (
        _HEAD.pack(MAGIC, 2, 777, len(NAME)),
        NAME.encode(),
        bytes([len(PAIRS)]),
        *(_PAIR.pack(*pair) for pair in PAIRS),
        TAIL,
    )
)


class Pair(Message):
    """
    An element of the array.
    """

    id: int = wire(c.Int16ub)
    value: int = wire(c.Int32ub)


class Report(Message):
    """
    The declaration.
    """

    magic: bytes = wire(c.Const(MAGIC))
    ver: int = wire(c.Int8ub)
    seq: int = wire(c.Int16ub)
    name: str = wire(c.PascalString(c.Int16ub, "utf8"))
    pairs: list[Pair] = wire(c.PrefixedArray(c.Int8ub, Pair.construct))
    tail: bytes = wire(c.GreedyBytes)


@attrs.define
class PairByHand:
    """
    An element, without protoserve.
    """

    id: int
    value: int


@attrs.define
class ReportByHand:
    """
    The message, without protoserve.
    """

    magic: bytes
    ver: int
    seq: int
    name: str
    pairs: list[PairByHand]
    tail: bytes


_unpack_head = _HEAD.unpack_from
_pack_head = _HEAD.pack
_pairs = _PAIR.iter_unpack
_pack_pair = _PAIR.pack


def parse(data: bytes) -> ReportByHand:
    """
    Parse a message; an IndexError or struct.error also says that it is too short.
    """
    magic, ver, seq, length = _unpack_head(data)
    if magic != MAGIC:
        raise ValueError(magic)
    end = 7 + length
    stop = end + 1 + 6 * data[end]
    if stop > len(data):
        raise ValueError(stop)
    pairs = [PairByHand(*pair) for pair in _pairs(data[end + 1 : stop])]
    return ReportByHand(magic, ver, seq, data[7:end].decode(), pairs, data[stop:])


def build(o: ReportByHand) -> bytes:
    """
    Build a message.
    """
    name, pairs = o.name.encode(), o.pairs
    return b"".join(
        (
            _pack_head(MAGIC, o.ver, o.seq, len(name)),
            name,
            bytes((len(pairs),)),
            b"".join([_pack_pair(pair.id, pair.value) for pair in pairs]),
            o.tail,
        )
    )


FORMAT = c.Struct(
    "magic" / c.Const(MAGIC),
    "ver" / c.Int8ub,
    "seq" / c.Int16ub,
    "name" / c.PascalString(c.Int16ub, "utf8"),
    "pairs"
    / c.PrefixedArray(c.Int8ub, c.Struct("id" / c.Int16ub, "value" / c.Int32ub)),
    "tail" / c.GreedyBytes,
)


def values(o: Any) -> tuple[Any, ...]:
    """
    Bring what any candidate parsed to plain values.
    """
    magic = o.magic.to_bytes(2, "big") if isinstance(o.magic, int) else bytes(o.magic)
    name = o.name if isinstance(o.name, str) else bytes(o.name).decode()
    pairs = [(pair.id, pair.value) for pair in o.pairs]
    return magic, o.ver, o.seq, name, pairs, bytes(o.tail)


def case() -> Case:
    """
    Make the case.
    """
    bytes(Report.parse(DATA))
    compiled = FORMAT.compile()
    return Case(
        "B",
        "magic + header + string + array + rest, 80 bytes",
        [DATA],
        [VALUES],
        values,
        [
            Candidate(HAND, parse, build),
            Candidate(OURS, Report.parse, Report.__bytes__),
            Candidate(INTERPRETED, FORMAT.parse, FORMAT.build),
            Candidate(COMPILED, compiled.parse, compiled.build),
        ],
    )
