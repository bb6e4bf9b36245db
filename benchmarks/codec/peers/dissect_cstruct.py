"""
dissect.cstruct: C definitions, compiled to Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dissect.cstruct import cstruct

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import netflow

NAME = "dissect.cstruct, compiled"
FIXED = """
struct telemetry {
    uint8 type; uint8 flags; uint16 seq; uint32 device;
    uint64 timestamp; float temp; float volt; int16 delta;
};
"""
VARIABLE = """
struct pair { uint16 id; uint32 value; };
struct report {
    uint16 magic; uint8 ver; uint16 seq; uint16 length; char name[length];
    uint8 count; pair pairs[count]; char tail[EOF];
};
"""
TYPES = {"B": "uint8", "H": "uint16", "I": "uint32"}


def _netflow_definition() -> str:
    def fields(codes: Mapping[str, str]) -> str:
        return " ".join(f"{TYPES[code]} {name};" for name, code in codes.items())

    header, record = fields(netflow.HEADER), fields(netflow.RECORD)
    return f"struct header {{ {header} }}; struct record {{ {record} }};"


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    types = cstruct(endian=">")
    types.load(FIXED + VARIABLE + _netflow_definition(), compiled=True)
    # It has no array whose count stands in another structure, so it is told the count.
    header, records = types.header, types.record[30]

    def packet(data: bytes) -> tuple[Any, Any]:
        return header(data), records(data[24:])

    def values(o: tuple[Any, Any]) -> Any:
        return netflow.header_values(o[0]), [netflow.record_values(r) for r in o[1]]

    return {
        "A": [Candidate(NAME, types.telemetry, lambda o: o.dumps())],
        "B": [Candidate(NAME, types.report, lambda o: o.dumps())],
        "D": [Candidate(f"{NAME}, told the count", packet, values=values)],
    }
