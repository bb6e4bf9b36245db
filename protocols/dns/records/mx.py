"""
MX: where mail for a name goes (RFC 1035 section 3.3.9).
"""

from __future__ import annotations

from construct import Int16ub

from protocols.dns.names import Name
from protoserve import Message, wire

__all__ = ["MX"]


class MX(Message):
    """
    A mail exchange; lower preferences are tried first.
    """

    preference: int = wire(Int16ub)
    exchange: str = wire(Name(compress=True))
