"""
Records that are one name: NS, CNAME and PTR (RFC 1035 section 3.3), DNAME
(RFC 6672 section 2.1).
"""

from __future__ import annotations

from protocols.dns.names import Name
from protoserve import Message, wire

__all__ = ["CNAME", "DNAME", "NS", "PTR"]


class NS(Message):
    """
    A server that has authority over the zone.
    """

    target: str = wire(Name(compress=True), doc="NSDNAME")


class CNAME(Message):
    """
    The canonical name of which the owner is an alias.
    """

    target: str = wire(Name(compress=True), doc="CNAME")


class PTR(Message):
    """
    A pointer to another name.
    """

    target: str = wire(Name(compress=True), doc="PTRDNAME")


class DNAME(Message):
    """
    The tree that everything below the owner is an alias into.
    """

    target: str = wire(Name())
