"""
OPT: the options of EDNS(0) (RFC 6891 section 6.1.2).

What the record's class and TTL mean, `protocols.dns.Edns` tells.
"""

from __future__ import annotations

from construct import Bytes, GreedyRange, Int16ub, this

from protocols.dns.codes import OptionCode
from protoserve import Message, length_of, wire

__all__ = ["OPT", "Option"]


class Option(Message):
    """
    One option, its data as it is on the wire.
    """

    code: OptionCode | int = wire(Int16ub, enum=OptionCode)
    length: int = wire(Int16ub, value=length_of("data"))
    data: bytes = wire(Bytes(this.length), default=b"")


class OPT(Message):
    """
    The options of a message.
    """

    options: list[Option] = wire(GreedyRange(Option.construct), factory=list)
