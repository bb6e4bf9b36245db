"""
caterpillar-py: classes whose annotations are the format.
"""

from __future__ import annotations

from typing import Any

import caterpillar.py as cat

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import choice, fixed, netflow, variable

NUMBERS = {"B": cat.uint8, "H": cat.uint16, "I": cat.uint32}


def _struct(name: str, fields: dict[str, Any]) -> Any:
    made = type(name, (), {"__annotations__": fields})
    return cat.struct(made, order=cat.BigEndian)


def _candidate(struct: Any) -> Candidate:
    return Candidate(
        "caterpillar-py",
        lambda data: cat.unpack(struct, data),
        lambda o: cat.pack(o, struct),
    )


def _fixed() -> Any:
    types = (
        *(cat.uint8, cat.uint8, cat.uint16, cat.uint32),
        *(cat.uint64, cat.float32, cat.float32, cat.int16),
    )
    return _struct("Telemetry", dict(zip(fixed.NAMES, types, strict=True)))


def _variable() -> Any:
    pair = _struct("Pair", {"id": cat.uint16, "value": cat.uint32})
    return _struct(
        "Report",
        {
            "magic": variable.MAGIC,
            "ver": cat.uint8,
            "seq": cat.uint16,
            "name": cat.Prefixed(cat.uint16, encoding="utf-8"),
            "pairs": pair[cat.uint8 : :],
            "tail": cat.Bytes(...),
        },
    )


def _choice() -> Any:
    bits = {"version": 4, "prio": 4, "hops": 8}
    made = type("Header", (), {"__annotations__": bits})
    header = cat.bitfield(made, order=cat.BigEndian)
    text = cat.Prefixed(cat.uint8, encoding="utf-8")
    bodies = {
        1: _struct("Ping", {"stamp": cat.uint64, "nonce": cat.uint32}),
        2: _struct("Data", {"addr": cat.uint32, "payload": cat.Prefixed(cat.uint16)}),
        3: _struct("Error", {"code": cat.uint16, "text": text}),
    }
    return _struct(
        "Packet",
        {
            "hdr": header,
            "kind": cat.Enum(choice.Kind, cat.uint8),
            "flags": cat.uint8,
            "body": cat.Field(cat.this.kind) >> bodies,
        },
    )


def _netflow() -> Any:
    header = _struct("Header", {n: NUMBERS[c] for n, c in netflow.HEADER.items()})
    record = _struct("Record", {n: NUMBERS[c] for n, c in netflow.RECORD.items()})
    return _struct("Packet", {"hdr": header, "records": record[cat.this.hdr.count]})


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    structs = {"A": _fixed(), "B": _variable(), "C": _choice(), "D": _netflow()}
    return {key: [_candidate(struct)] for key, struct in structs.items()}
