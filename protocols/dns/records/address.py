"""
A and AAAA: the addresses of a host (RFC 1035 section 3.4.1, RFC 3596).
"""

from __future__ import annotations

from protocols.dns.addresses import IPv4Text, IPv6Text
from protoserve import Message, wire

__all__ = ["AAAA", "A"]


class A(Message):
    """
    An IPv4 address.
    """

    address: str = wire(IPv4Text, doc="such as 192.0.2.1")


class AAAA(Message):
    """
    An IPv6 address.
    """

    address: str = wire(IPv6Text, doc="such as 2001:db8::1")
