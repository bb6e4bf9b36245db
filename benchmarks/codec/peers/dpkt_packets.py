"""
dpkt: packet classes over struct.
"""

from __future__ import annotations

import struct
from typing import Any

import dpkt
import dpkt.netflow

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import fixed, netflow


class Telemetry(dpkt.Packet):
    __hdr__ = tuple(
        (name, code, 0) for name, code in zip(fixed.NAMES, "BBHIQffh", strict=True)
    )


def _values(o: Any) -> Any:
    """
    Read a packet's numbers by unpacking what dpkt builds: its own names differ.
    """
    head = struct.unpack(">" + "".join(netflow.HEADER.values()), bytes(o)[:24])
    row = struct.Struct(">" + "".join(netflow.RECORD.values()))
    return head, [row.unpack(bytes(record)) for record in o.data]


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    flows = dpkt.netflow.Netflow5
    return {
        "A": [Candidate("dpkt", Telemetry, bytes)],
        "D": [Candidate("dpkt", flows, bytes, _values)],
    }
