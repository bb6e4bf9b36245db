"""
TXT and HINFO: text for people and programs (RFC 1035 sections 3.3.2 and 3.3.14).
"""

from __future__ import annotations

from construct import GreedyRange

from protocols.dns.strings import CharacterString
from protoserve import Message, wire

__all__ = ["HINFO", "TXT"]


class TXT(Message):
    """
    One or more strings.
    """

    strings: list[bytes] = wire(GreedyRange(CharacterString))


class HINFO(Message):
    """
    A host's hardware and system; an answer to ANY may be one (RFC 8482).
    """

    cpu: bytes = wire(CharacterString)
    os: bytes = wire(CharacterString)
