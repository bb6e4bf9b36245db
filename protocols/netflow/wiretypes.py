"""
Formats that Construct does not have: addresses as text.
"""

from __future__ import annotations

from socket import AF_INET, inet_ntop, inet_pton

from construct import Bytes, ExprAdapter

__all__ = ["IPv4"]

IPv4 = ExprAdapter(
    Bytes(4),
    lambda data, _: inet_ntop(AF_INET, data),
    lambda text, _: inet_pton(AF_INET, text),
)
"""An IPv4 address, as ``192.0.2.1``."""
