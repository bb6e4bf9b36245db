"""
A: a record of eight fields, 26 bytes.
"""

from __future__ import annotations

import struct

import attrs
import construct as c

from benchmarks.codec.case import (
    COMPILED,
    HAND,
    INTERPRETED,
    OURS,
    Candidate,
    Case,
    attributes,
)
from protoserve import Message, wire

NAMES = ("type", "flags", "seq", "device", "timestamp", "temp", "volt", "delta")
VALUES = (3, 0x81, 40_000, 3_000_000_001, 1_700_000_000_123_456, 21.5, 3.25, -1234)
LAYOUT = struct.Struct(">BBHIQffh")
DATA = LAYOUT.pack(*VALUES)


class Telemetry(Message):
    """
    The declaration.
    """

    type: int = wire(c.Int8ub)
    flags: int = wire(c.Int8ub)
    seq: int = wire(c.Int16ub)
    device: int = wire(c.Int32ub)
    timestamp: int = wire(c.Int64ub)
    temp: float = wire(c.Float32b)
    volt: float = wire(c.Float32b)
    delta: int = wire(c.Int16sb)


@attrs.define
class ByHand:
    """
    The same, as one writes it without protoserve.
    """

    type: int
    flags: int
    seq: int
    device: int
    timestamp: int
    temp: float
    volt: float
    delta: int


_unpack = LAYOUT.unpack
_pack = LAYOUT.pack


def parse(data: bytes) -> ByHand:
    """
    Parse exactly one record; `unpack` refuses any other size.
    """
    return ByHand(*_unpack(data))


def build(o: ByHand) -> bytes:
    """
    Build one record.
    """
    return _pack(o.type, o.flags, o.seq, o.device, o.timestamp, o.temp, o.volt, o.delta)


FORMAT = c.Struct(
    "type" / c.Int8ub,
    "flags" / c.Int8ub,
    "seq" / c.Int16ub,
    "device" / c.Int32ub,
    "timestamp" / c.Int64ub,
    "temp" / c.Float32b,
    "volt" / c.Float32b,
    "delta" / c.Int16sb,
)


record_values = attributes(NAMES)


def parse_as_called(data: bytes) -> Telemetry:
    """
    Parse as programs do, which look the function up in the class each time.
    """
    return Telemetry.parse(data)


def case() -> Case:
    """
    Make the case.
    """
    first = Telemetry.parse(DATA)
    bytes(first)  # from here on the generated functions are in place
    compiled = FORMAT.compile()
    return Case(
        "A",
        "fixed record of 8 fields, 26 bytes",
        [DATA],
        [VALUES],
        record_values,
        [
            Candidate(HAND, parse, build),
            Candidate(OURS, Telemetry.parse, Telemetry.__bytes__),
            Candidate(
                "protoserve, called as Cls.parse(data) and bytes(message)",
                parse_as_called,
                bytes,
            ),
            Candidate(
                "struct alone, tuples", LAYOUT.unpack, lambda t: _pack(*t), tuple
            ),
            Candidate(INTERPRETED, FORMAT.parse, FORMAT.build),
            Candidate(COMPILED, compiled.parse, compiled.build),
        ],
    )
