"""
The types of XDR that sFlow is written in (RFC 4506).

Everything is a multiple of four bytes: what is shorter is filled up with zeros. A
*variable-length opaque* has its length before it, without what fills it up.
Addresses are text as `ipaddress` has it, and their type stands before them.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import Any

from construct import (
    Aligned,
    Bytes,
    ExprAdapter,
    GreedyBytes,
    Int32ub,
    Padding,
    Prefixed,
    PrefixedArray,
    Switch,
    this,
)

__all__ = [
    "FILLING",
    "AddressType",
    "IPv4Text",
    "IPv6Text",
    "Mac",
    "Numbers",
    "Opaque",
    "Text",
    "address",
    "mac_text",
]


class AddressType(enum.IntEnum):
    """
    What kind of address follows.
    """

    UNKNOWN = 0
    IP_V4 = 1
    IP_V6 = 2


IPv4Text = ExprAdapter(
    Bytes(4),
    lambda packed, _context: str(ipaddress.IPv4Address(packed)),
    lambda text, _context: ipaddress.IPv4Address(text).packed,
)

IPv6Text = ExprAdapter(
    Bytes(16),
    lambda packed, _context: str(ipaddress.IPv6Address(packed)),
    lambda text, _context: ipaddress.IPv6Address(text).packed,
)


def address(kind: Any) -> Switch:
    """
    Make the format of an address whose type is known; an unknown one has no bytes.
    """
    return Switch(kind, {AddressType.IP_V4: IPv4Text, AddressType.IP_V6: IPv6Text})


def mac_text(packed: bytes) -> str:
    """
    Write an Ethernet address.

    >>> mac_text(bytes.fromhex("02005e10a0ff"))
    '02:00:5e:10:a0:ff'
    """
    return packed.hex(":")


def _mac_bytes(text: str) -> bytes:
    packed = bytes.fromhex(text.replace(":", ""))
    if len(packed) != 6:
        raise ValueError(f"expected 6 bytes with colons between, got {text!r}")
    return packed + bytes(2)


Mac = ExprAdapter(
    Bytes(8),
    lambda packed, _context: mac_text(packed[:6]),
    lambda text, _context: _mac_bytes(text),
)

Opaque = Aligned(4, Prefixed(Int32ub, GreedyBytes))
"""Bytes of any number."""

Text = ExprAdapter(
    Opaque,
    lambda data, _context: data.decode("utf-8", "surrogateescape"),
    lambda text, _context: text.encode("utf-8", "surrogateescape"),
)
"""
A string; XDR says ASCII, and UTF-8 is what is sent, mostly. Bytes that are neither, as in
what people call their ports or ask of web servers, are kept as lone surrogates.
"""


FILLING = Padding(-this.length % 4)
"""The zeros behind so many bytes, up to a whole word."""

Numbers = PrefixedArray(Int32ub, Int32ub)
"""Unsigned integers of any number."""
