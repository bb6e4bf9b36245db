"""
SVCB and HTTPS: how to reach a service (RFC 9460 section 2.2).
"""

from __future__ import annotations

import enum

from construct import Bytes, GreedyRange, Int16ub, this

from protocols.dns.names import Name
from protoserve import Message, length_of, wire

__all__ = ["HTTPS", "SVCB", "SvcParam", "SvcParamKey"]


class SvcParamKey(enum.IntEnum):
    """
    What a parameter is about (RFC 9460 section 14.3.2).
    """

    MANDATORY = 0
    ALPN = 1
    NO_DEFAULT_ALPN = 2
    PORT = 3
    IPV4HINT = 4
    ECH = 5
    IPV6HINT = 6


class SvcParam(Message):
    """
    One parameter, its value as it is on the wire.
    """

    key: SvcParamKey | int = wire(Int16ub, enum=SvcParamKey)
    length: int = wire(Int16ub, value=length_of("value"))
    value: bytes = wire(Bytes(this.length), default=b"")


class SVCB(Message):
    """
    One way to reach a service; with priority 0 an alias. The name is not compressed.
    """

    priority: int = wire(Int16ub)
    target: str = wire(Name())
    parameters: list[SvcParam] = wire(GreedyRange(SvcParam.construct), factory=list)


class HTTPS(SVCB):
    """
    The same for HTTPS.
    """
