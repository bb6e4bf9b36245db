"""
construct-classes: Construct's parsing into attrs-like classes.
"""

from __future__ import annotations

from typing import Any

import construct_classes

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import fixed, netflow


def _class(name: str, format_: Any, annotations: dict[str, Any]) -> Any:
    base: Any = construct_classes.Struct
    return type(base)(
        name, (base,), {"SUBCON": format_, "__annotations__": annotations}
    )


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    record = _class("Telemetry", fixed.FORMAT, dict.fromkeys(fixed.NAMES, int))
    packet = _class("Packet", netflow.FORMAT, {"hdr": Any, "records": list[Any]})
    return {
        "A": [Candidate("construct-classes", record.parse, lambda o: o.build())],
        "D": [Candidate("construct-classes", packet.parse, lambda o: o.build())],
    }
