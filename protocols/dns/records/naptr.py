"""
NAPTR: a rule that rewrites a string to a name or URI (RFC 3403 section 4.1).
"""

from __future__ import annotations

from construct import Int16ub

from protocols.dns.names import Name
from protocols.dns.strings import CharacterString
from protoserve import Message, wire

__all__ = ["NAPTR"]


class NAPTR(Message):
    """
    One rule. Its replacement is not compressed.
    """

    order: int = wire(Int16ub)
    preference: int = wire(Int16ub)
    flags: bytes = wire(CharacterString)
    services: bytes = wire(CharacterString)
    regexp: bytes = wire(CharacterString)
    replacement: str = wire(Name())
