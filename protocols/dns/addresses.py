"""
Internet addresses as text, in the form of `ipaddress`.

IPv6 addresses come in the form of RFC 5952 (``2001:db8::1``). Any form that
`ipaddress` reads is accepted when a message is built.
"""

from __future__ import annotations

import ipaddress

from construct import Bytes, ExprAdapter

__all__ = ["IPv4Text", "IPv6Text"]

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
