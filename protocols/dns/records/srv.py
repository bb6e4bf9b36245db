"""
SRV: where a service is (RFC 2782).
"""

from __future__ import annotations

from construct import Int16ub

from protocols.dns.names import Name
from protoserve import Message, wire

__all__ = ["SRV"]


class SRV(Message):
    """
    A server of a service such as ``_sip._tcp``. Its target is not compressed.
    """

    priority: int = wire(Int16ub)
    weight: int = wire(Int16ub)
    port: int = wire(Int16ub)
    target: str = wire(Name())
