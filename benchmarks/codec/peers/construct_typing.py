"""
construct-typing: dataclasses over Construct.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import construct_typed

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import fixed, netflow


def _typed(name: str, parts: dict[str, Any]) -> Any:
    fields = [(n, Any, construct_typed.csfield(part)) for n, part in parts.items()]
    bases = (construct_typed.DataclassMixin,)
    made = dataclasses.make_dataclass(name, fields, bases=bases)
    return construct_typed.DataclassStruct(made)


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    record = _typed(
        "Telemetry", {part.name: part.subcon for part in fixed.FORMAT.subcons}
    )
    header = _typed(
        "Header", {n: netflow.NUMBERS[c] for n, c in netflow.HEADER.items()}
    )
    flow = _typed("Record", {n: netflow.NUMBERS[c] for n, c in netflow.RECORD.items()})
    array = netflow.FORMAT.subcons[1].subcon
    packet = _typed("Packet", {"hdr": header, "records": flow[array.count]})
    return {
        "A": [Candidate("construct-typing", record.parse, record.build)],
        "D": [Candidate("construct-typing", packet.parse, packet.build)],
    }
