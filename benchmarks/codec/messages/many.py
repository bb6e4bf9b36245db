"""
F: many messages in one buffer, as arrays: of fixed records, and of records with text.
"""

from __future__ import annotations

import struct
from typing import Any

import attrs
import construct as c

from benchmarks.codec.case import COMPILED, HAND, INTERPRETED, OURS, Candidate, Case
from benchmarks.codec.messages import fixed
from protoserve import Message, wire

FIXED_VALUES = [
    (3, 1, i, 3_000_000_001 + i, 1_700_000_000_123_456 + i, 21.5, i / 4, -i)
    for i in range(1000)
]
FIXED = b"".join(fixed.LAYOUT.pack(*row) for row in FIXED_VALUES)
TEXT_VALUES = [(i, f"sensor/{i}", 70_000 + i) for i in range(200)]
_FRONT = struct.Struct(">HB")
_BACK = struct.Struct(">I")
TEXT = struct.pack(">H", len(TEXT_VALUES)) + b"".join(
    _FRONT.pack(number, len(name)) + name.encode() + _BACK.pack(value)
    for number, name, value in TEXT_VALUES
)


class FixedRecords(Message):
    """
    As many records of eight fields as there are.
    """

    records: list[fixed.Telemetry] = wire(c.GreedyRange(fixed.Telemetry.construct))


class Named(Message):
    """
    A record of variable size.
    """

    number: int = wire(c.Int16ub)
    name: str = wire(c.PascalString(c.Int8ub, "utf8"))
    value: int = wire(c.Int32ub)


class NamedRecords(Message):
    """
    A counted array of them.
    """

    records: list[Named] = wire(c.PrefixedArray(c.Int16ub, Named.construct))


@attrs.define
class RecordsByHand:
    """
    Either message, without protoserve.
    """

    records: list[Any]


@attrs.define
class NamedByHand:
    """
    A record of variable size, without protoserve.
    """

    number: int
    name: str
    value: int


_rows = fixed.LAYOUT.iter_unpack
_pack_row = fixed.LAYOUT.pack
_unpack_front, _pack_front = _FRONT.unpack_from, _FRONT.pack
_unpack_back, _pack_back = _BACK.unpack_from, _BACK.pack


def parse_fixed(data: bytes) -> RecordsByHand:
    """
    Parse records; `iter_unpack` refuses half a record.
    """
    return RecordsByHand([fixed.ByHand(*row) for row in _rows(data)])


def build_fixed(o: RecordsByHand) -> bytes:
    """
    Build records.
    """
    return b"".join(
        [
            _pack_row(
                r.type, r.flags, r.seq, r.device, r.timestamp, r.temp, r.volt, r.delta
            )
            for r in o.records
        ]
    )


def parse_text(data: bytes) -> RecordsByHand:
    """
    Parse records with text in them, all of the data.
    """
    count = data[0] << 8 | data[1]
    at = 2
    records = []
    for _ in range(count):
        number, length = _unpack_front(data, at)
        end = at + 3 + length
        (value,) = _unpack_back(data, end)
        records.append(NamedByHand(number, data[at + 3 : end].decode(), value))
        at = end + 4
    if at != len(data):
        raise ValueError(at)
    return RecordsByHand(records)


def build_text(o: RecordsByHand) -> bytes:
    """
    Build records with text in them.
    """
    records = o.records
    parts = [len(records).to_bytes(2, "big")]
    add = parts.append
    for record in records:
        name = record.name.encode()
        add(_pack_front(record.number, len(name)) + name + _pack_back(record.value))
    return b"".join(parts)


FIXED_FORMAT = c.Struct("records" / c.GreedyRange(fixed.FORMAT))
TEXT_FORMAT = c.Struct(
    "records"
    / c.PrefixedArray(
        c.Int16ub,
        c.Struct(
            "number" / c.Int16ub,
            "name" / c.PascalString(c.Int8ub, "utf8"),
            "value" / c.Int32ub,
        ),
    )
)


def case() -> Case:
    """
    Make the case of fixed records.
    """
    bytes(FixedRecords.parse(FIXED))
    compiled = FIXED_FORMAT.compile()
    return Case(
        "F, fixed",
        "an array of 1000 records of 8 fields, 26 kB",
        [FIXED],
        [FIXED_VALUES],
        lambda o: [fixed.record_values(record) for record in o.records],
        [
            Candidate(HAND, parse_fixed, build_fixed),
            Candidate(OURS, FixedRecords.parse, FixedRecords.__bytes__),
            Candidate(INTERPRETED, FIXED_FORMAT.parse, FIXED_FORMAT.build),
            Candidate(COMPILED, compiled.parse, compiled.build),
        ],
    )


def text_case() -> Case:
    """
    Make the case of records with text.
    """
    bytes(NamedRecords.parse(TEXT))
    compiled = TEXT_FORMAT.compile()
    return Case(
        "F, text",
        "an array of 200 records with a string each, 3.4 kB",
        [TEXT],
        [TEXT_VALUES],
        lambda o: [(r.number, r.name, r.value) for r in o.records],
        [
            Candidate(HAND, parse_text, build_text),
            Candidate(OURS, NamedRecords.parse, NamedRecords.__bytes__),
            Candidate(INTERPRETED, TEXT_FORMAT.parse, TEXT_FORMAT.build),
            Candidate(COMPILED, compiled.parse, compiled.build),
        ],
    )
