"""
SOA: the start of a zone of authority (RFC 1035 section 3.3.13).
"""

from __future__ import annotations

from construct import Int32ub

from protocols.dns.names import Name
from protoserve import Message, wire

__all__ = ["SOA"]


class SOA(Message):
    """
    Who is responsible for a zone, and how long its data is good for.
    """

    mname: str = wire(Name(compress=True), doc="the primary server")
    rname: str = wire(Name(compress=True), doc="the mailbox, its @ as a dot")
    serial: int = wire(Int32ub, default=1)
    refresh: int = wire(Int32ub, default=7200, unit="s")
    retry: int = wire(Int32ub, default=900, unit="s")
    expire: int = wire(Int32ub, default=1_209_600, unit="s")
    minimum: int = wire(
        Int32ub, default=300, unit="s", doc="TTL of negative answers (RFC 2308)"
    )
