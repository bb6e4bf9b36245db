"""
Open Sound Control 1.0 and 1.1: messages of sensors, instruments and lights.

`osc` is the protocol. A datagram is an `OscMessage` or a `Bundle` of them; over TCP
they are framed by SLIP, as OSC 1.1 has it, and `osc_1_0` has the length before each
packet, as in OSC 1.0. Nothing is answered, and no port is OSC's own.

Specifications: The Open Sound Control 1.0 Specification (2002); A. Freed and
A. Schmeder, Features and Future of Open Sound Control version 1.1 (2009).

>>> bytes(OscMessage("/led", [1])).hex(" ", 4)
'2f6c6564 00000000 2c690000 00000001'
"""

from __future__ import annotations

import attrs
from construct import Int32ub

from protocols.osc.arguments import tags_of
from protocols.osc.messages import (
    IMMEDIATELY,
    Bundle,
    Header,
    MessageRow,
    OscMessage,
)
from protoserve import LengthPrefixed, Protocol, Slip

__all__ = [
    "IMMEDIATELY",
    "Bundle",
    "Header",
    "MessageRow",
    "OscMessage",
    "osc",
    "osc_1_0",
    "tags_of",
]

_LONGEST = (1 << 16) - 1
"""Bytes of a packet over TCP: no more than over UDP."""

osc = Protocol(
    "osc",
    framing=Slip(max_size=_LONGEST),
    header=Header,
    tag="first",
    messages={ord("/"): OscMessage, ord("#"): Bundle},
    doc="Open Sound Control 1.1",
)

osc_1_0 = attrs.evolve(
    osc,
    framing=LengthPrefixed(Int32ub, max_size=_LONGEST),
    doc="Open Sound Control 1.0, whose packets have their length before them over TCP",
)
