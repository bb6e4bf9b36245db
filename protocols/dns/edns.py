"""
EDNS(0): larger datagrams, more response codes, options (RFC 6891).

The OPT record keeps its numbers in the class and the TTL of a record; `Edns` has
them by name. `fit` cuts an answer to what its asker can take.
"""

from __future__ import annotations

from typing import Self

import attrs

from protocols.dns.codes import Rcode, RRType
from protocols.dns.messages import Header, Query, ResourceRecord, Response
from protocols.dns.records import OPT, Option

__all__ = ["Edns", "fit", "full_rcode"]

PLAIN_SIZE = 512
"""Octets of a message over UDP without EDNS (RFC 1035 section 2.3.4)."""

LARGEST_SIZE = 4096
"""Octets of a message over UDP at most (RFC 6891 section 6.2.5)."""

_FLAGS_SIZE = 4
"""Octets of the header without its counts, which a `Response` has itself."""


@attrs.frozen
class Edns:
    """
    What an OPT record says (RFC 6891 section 6.1.3).
    """

    payload: int = 1232
    """Octets that the sender can take in one datagram."""

    rcode_bits: int = 0
    """The upper eight bits of the response code."""

    version: int = 0
    dnssec_ok: bool = False
    flags: int = 0
    """The fifteen flags that have no meaning yet."""

    options: list[Option] = attrs.field(factory=list)

    @classmethod
    def of(cls, message: Query | Response) -> Self | None:
        """
        Read a message's OPT record.

        Returns:
            `None` if it has none.

        Raises:
            ValueError: there are several, or its owner is not the root, or its data
                is no list of options: a format error (RFC 6891 section 6.1.1).
        """
        records = [r for r in message.additionals if r.type == RRType.OPT]
        if not records:
            return None
        opt = records[0]
        if len(records) > 1 or opt.name != "." or not isinstance(opt.rdata, OPT):
            raise ValueError("a message has one OPT record at most, owned by the root")
        return cls(
            payload=int(opt.rrclass),
            rcode_bits=opt.ttl >> 24,
            version=opt.ttl >> 16 & 0xFF,
            dnssec_ok=bool(opt.ttl & 0x8000),
            flags=opt.ttl & 0x7FFF,
            options=opt.rdata.options,
        )

    def record(self) -> ResourceRecord:
        """
        Make the OPT record.
        """
        flags = self.dnssec_ok << 15 | self.flags
        ttl = self.rcode_bits << 24 | self.version << 16 | flags
        data = OPT(self.options)
        return ResourceRecord(".", RRType.OPT, self.payload, ttl, data)

    @property
    def size(self) -> int:
        """
        How many octets an answer over UDP may have.
        """
        return min(max(self.payload, PLAIN_SIZE), LARGEST_SIZE)


def full_rcode(header: Header, message: Query | Response) -> Rcode | int:
    """
    Put the two parts of a response code together (RFC 6891 section 6.1.3).

    Raises:
        ValueError: the message's EDNS is malformed.
    """
    edns = Edns.of(message)
    number = (edns.rcode_bits << 4 if edns else 0) | header.rcode
    return Rcode(number) if number in Rcode.__members__.values() else number


def fit(response: Response, size: int) -> tuple[Response, bool]:
    """
    Leave out of a response what does not fit.

    Additional records go first, but for OPT; an answer that is too long without
    them is left out as a whole.

    Args:
        response: the whole answer.
        size: octets that the message may have.

    Returns:
        A response that fits, and whether it is truncated: whether the header's TC
        bit is to be set (RFC 2181 section 9).
    """
    if _octets(response) <= size:
        return response, False
    opt = [r for r in response.additionals if r.type == RRType.OPT]
    lean = Response(response.questions, response.answers, response.authorities, opt)
    if _octets(lean) <= size:
        return lean, False
    return Response(response.questions, additionals=opt), True


def _octets(response: Response) -> int:
    return _FLAGS_SIZE + len(bytes(response))
