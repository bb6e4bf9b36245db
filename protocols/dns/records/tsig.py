"""
TSIG: the authentication of one message by a shared secret (RFC 8945 section 4.2).

The record is decoded, not verified.
"""

from __future__ import annotations

from construct import Bytes, BytesInteger, Int16ub, this

from protocols.dns.codes import Rcode
from protocols.dns.names import Name
from protoserve import Message, length_of, wire

__all__ = ["TSIG"]


class TSIG(Message):
    """
    A message's MAC; the record is the last one of the additional section.
    """

    algorithm: str = wire(Name())
    time_signed: int = wire(BytesInteger(6), unit="s", doc="since 1970")
    fudge: int = wire(Int16ub, default=300, unit="s")
    mac_size: int = wire(Int16ub, value=length_of("mac"))
    mac: bytes = wire(Bytes(this.mac_size), default=b"")
    original_id: int = wire(Int16ub, default=0)
    error: Rcode | int = wire(Int16ub, enum=Rcode, default=Rcode.NOERROR)
    other_length: int = wire(Int16ub, value=length_of("other"))
    other: bytes = wire(Bytes(this.other_length), default=b"")
