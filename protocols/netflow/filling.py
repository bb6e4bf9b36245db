"""
Datagrams of version 9 that are filled up.

The sets of a datagram fill it exactly (RFC 3954 section 5), and padding is a part of its
set. Firewalls of Palo Alto send datagrams of one size all the same, with zeros behind the
last set.
"""

from __future__ import annotations

import attrs

from protocols.netflow.templates import V9
from protoserve.framing import Datagram

__all__ = ["Filled"]

_V9 = V9.to_bytes(2, "big")
_HEAD, _SET_HEAD = 20, 4
"""Bytes in front of the sets, and of what is in each."""


@attrs.frozen
class Filled(Datagram):
    """
    A datagram in which zeros may follow the sets of version 9; they are left out.
    """

    def split(self, datagram: bytes) -> list[bytes]:
        """
        Give the datagram without its filling.
        """
        return [_cut(each) for each in super().split(datagram)]


def _cut(datagram: bytes) -> bytes:
    if datagram[:2] != _V9 or datagram[-1]:
        return datagram
    at = _HEAD
    while at + _SET_HEAD <= len(datagram):
        size = int.from_bytes(datagram[at + 2 : at + _SET_HEAD], "big")
        if size < _SET_HEAD:
            break
        at += size
    return datagram if any(datagram[at:]) else datagram[:at]
