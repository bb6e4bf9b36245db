"""
D: a NetFlow v5 packet, a header and 30 records of 20 fields, 1464 bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import attrs
import construct as c
from construct import this

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

HEADER = {
    "version": "H",
    "count": "H",
    "uptime": "I",
    "secs": "I",
    "nsecs": "I",
    "seq": "I",
    "etype": "B",
    "eid": "B",
    "sampling": "H",
}
RECORD = {
    "src": "I",
    "dst": "I",
    "hop": "I",
    "input": "H",
    "output": "H",
    "pkts": "I",
    "octets": "I",
    "first": "I",
    "last": "I",
    "sport": "H",
    "dport": "H",
    "pad1": "B",
    "tcp": "B",
    "prot": "B",
    "tos": "B",
    "src_as": "H",
    "dst_as": "H",
    "src_mask": "B",
    "dst_mask": "B",
    "pad2": "H",
}
_HEADER = struct.Struct(">" + "".join(HEADER.values()))
_RECORD = struct.Struct(">" + "".join(RECORD.values()))
HEAD = (5, 30, 123_456, 1_700_000_000, 5000, 42_000, 0, 1, 0)
RECORDS = [
    (
        0x0A000001 + i,
        0xC0A80001 + i * 7,
        0x0A0000FE,
        300 + i,
        400,
        1000 * i + 300,
        150_000 * i + 999,
        90_000 + i,
        99_000 + i,
        1024 + i * 31,
        443,
        0,
        27,
        6,
        0,
        64_512,
        64_513,
        24,
        16,
        0,
    )
    for i in range(30)
]
DATA = _HEADER.pack(*HEAD) + b"".join(_RECORD.pack(*record) for record in RECORDS)
NUMBERS = {"B": c.Int8ub, "H": c.Int16ub, "I": c.Int32ub}


class Header(Message):
    """
    What a packet starts with.
    """

    version: int = wire(c.Int16ub)
    count: int = wire(c.Int16ub)
    uptime: int = wire(c.Int32ub)
    secs: int = wire(c.Int32ub)
    nsecs: int = wire(c.Int32ub)
    seq: int = wire(c.Int32ub)
    etype: int = wire(c.Int8ub)
    eid: int = wire(c.Int8ub)
    sampling: int = wire(c.Int16ub)


class Record(Message):
    """
    One flow.
    """

    src: int = wire(c.Int32ub)
    dst: int = wire(c.Int32ub)
    hop: int = wire(c.Int32ub)
    input: int = wire(c.Int16ub)
    output: int = wire(c.Int16ub)
    pkts: int = wire(c.Int32ub)
    octets: int = wire(c.Int32ub)
    first: int = wire(c.Int32ub)
    last: int = wire(c.Int32ub)
    sport: int = wire(c.Int16ub)
    dport: int = wire(c.Int16ub)
    pad1: int = wire(c.Int8ub)
    tcp: int = wire(c.Int8ub)
    prot: int = wire(c.Int8ub)
    tos: int = wire(c.Int8ub)
    src_as: int = wire(c.Int16ub)
    dst_as: int = wire(c.Int16ub)
    src_mask: int = wire(c.Int8ub)
    dst_mask: int = wire(c.Int8ub)
    pad2: int = wire(c.Int16ub)


class Packet(Message):
    """
    The declaration.
    """

    hdr: Header = wire(Header)
    records: list[Record] = wire(c.Array(this.hdr.count, Record.construct))


HeaderByHand: Any = attrs.make_class("HeaderByHand", list(HEADER))
RecordByHand: Any = attrs.make_class("RecordByHand", list(RECORD))
PacketByHand: Any = attrs.make_class("PacketByHand", ["hdr", "records"])
_unpack_header, _pack_header = _HEADER.unpack_from, _HEADER.pack
_records, _pack_record = _RECORD.iter_unpack, _RECORD.pack


def parse(data: bytes) -> Any:
    """
    Parse a packet, all of it.
    """
    header = HeaderByHand(*_unpack_header(data))
    if 24 + 48 * header.count != len(data):
        raise ValueError(header)
    return PacketByHand(header, [RecordByHand(*row) for row in _records(data[24:])])


def build(o: Any) -> bytes:
    """
    Build a packet.
    """
    h, records = o.hdr, o.records
    if len(records) != h.count:
        raise ValueError(h)
    return _pack_header(
        h.version,
        h.count,
        h.uptime,
        h.secs,
        h.nsecs,
        h.seq,
        h.etype,
        h.eid,
        h.sampling,
    ) + b"".join(
        [
            _pack_record(
                r.src,
                r.dst,
                r.hop,
                r.input,
                r.output,
                r.pkts,
                r.octets,
                r.first,
                r.last,
                r.sport,
                r.dport,
                r.pad1,
                r.tcp,
                r.prot,
                r.tos,
                r.src_as,
                r.dst_as,
                r.src_mask,
                r.dst_mask,
                r.pad2,
            )
            for r in records
        ]
    )


FORMAT = c.Struct(
    "hdr" / c.Struct(*(name / NUMBERS[code] for name, code in HEADER.items())),
    "records"
    / c.Array(
        this.hdr.count,
        c.Struct(*(name / NUMBERS[code] for name, code in RECORD.items())),
    ),
)

header_values = attributes(list(HEADER))
record_values = attributes(list(RECORD))
VALUES = (HEAD, RECORDS)


def values(o: Any) -> Any:
    """
    Bring what any candidate parsed to plain values.
    """
    return header_values(o.hdr), [record_values(record) for record in o.records]


def case() -> Case:
    """
    Make the case.
    """
    bytes(Packet.parse(DATA))
    compiled = FORMAT.compile()
    return Case(
        "D",
        "NetFlow v5, 30 records of 20 fields, 1464 bytes",
        [DATA],
        [VALUES],
        values,
        [
            Candidate(HAND, parse, build),
            Candidate(OURS, Packet.parse, Packet.__bytes__),
            Candidate(
                "struct alone, tuples",
                lambda data: (_unpack_header(data), list(_records(data[24:]))),
                values=lambda o: o,
            ),
            Candidate(INTERPRETED, FORMAT.parse, FORMAT.build),
            Candidate(COMPILED, compiled.parse, compiled.build),
        ],
    )
