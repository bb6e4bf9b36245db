"""
msgspec: MessagePack to its own structures, in C, as a reference for what C does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import fixed, netflow, variable

NAME = "in C, other bytes: msgspec, MessagePack"


def _struct(name: str, fields: list[tuple[str, Any]]) -> Any:
    return msgspec.defstruct(name, fields, array_like=True, gc=False)


def _candidate(cls: Any, value: Any, values: Any = None) -> Candidate:
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(cls).decode
    return Candidate(NAME, decode, encode, values, [value], [encode(value)])


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    floats = ("temp", "volt")
    names = [(name, float if name in floats else int) for name in fixed.NAMES]
    telemetry = _struct("Telemetry", names)
    pair = _struct("Pair", [("id", int), ("value", int)])
    report = _struct(
        "Report",
        [
            ("magic", bytes),
            ("ver", int),
            ("seq", int),
            ("name", str),
            ("pairs", list[pair]),
            ("tail", bytes),
        ],
    )
    header = _struct("Header", [(name, int) for name in netflow.HEADER])
    record = _struct("Record", [(name, int) for name in netflow.RECORD])
    packet = _struct("Packet", [("hdr", header), ("records", list[record])])
    pairs = [pair(*one) for one in variable.PAIRS]
    records = [record(*one) for one in netflow.RECORDS]
    return {
        "A": [_candidate(telemetry, telemetry(*fixed.VALUES))],
        "B": [
            _candidate(
                report,
                report(variable.MAGIC, 2, 777, variable.NAME, pairs, variable.TAIL),
            )
        ],
        "D": [_candidate(packet, packet(header(*netflow.HEAD), records))],
    }
