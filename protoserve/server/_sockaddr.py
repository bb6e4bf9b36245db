"""
Socket addresses as the kernel writes them, and as Python does.

A raw address is a good key: equal peers have equal bytes, and to compare bytes costs
less than to make a tuple. The few that are in use are remembered in both forms.
Families of other systems' layout do not matter: where the kernel is not asked for raw
addresses, both directions are done here.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

__all__ = ["AddressBook", "name_size"]

_INET = struct.Struct("=H2s4s8x")
_INET6 = struct.Struct("=H2s4s16sI")
_FAMILY = struct.Struct("=H")
_PORT = struct.Struct("!H")
_FLOW = struct.Struct("!I")
_SIZES: dict[int, int] = {socket.AF_INET: _INET.size, socket.AF_INET6: _INET6.size}
_LONGEST = 110
"""Bytes of the longest address of the families served, a Unix path's."""
_REMEMBERED = 4096


def name_size(family: int) -> int:
    """
    Give the bytes of a family's longest address.
    """
    return _SIZES.get(family, _LONGEST)


class AddressBook:
    """
    Translates addresses of one family, and remembers some thousands of them.

    Args:
        family: the sockets' address family.
    """

    def __init__(self, family: int) -> None:
        self._family = family
        self._plain: dict[bytes, Any] = {}
        self._raw: dict[Any, bytes] = {}

    def plain(self, raw: bytes) -> Any:
        """
        Give an address as Python's socket module does; `None` for an unnamed peer.
        """
        known = self._plain.get(raw)
        if known is None and len(raw) > _FAMILY.size:
            known = self.decode(raw)
            self._remember(raw, known)
        return known

    def raw(self, address: Any) -> bytes:
        """
        Give an address as the kernel does; no bytes for an unnamed peer.

        Raises:
            OSError: it is no numeric address.
        """
        if not address:
            return b""
        known = self._raw.get(address)
        if known is None:
            known = self._encode(address)
            self._remember(known, address)
        return known

    def _remember(self, raw: bytes, address: Any) -> None:
        if len(self._plain) >= _REMEMBERED:
            self._plain.clear()
            self._raw.clear()
        self._plain[raw] = address
        self._raw[address] = raw

    def decode(self, raw: bytes) -> Any:
        """
        Translate an address, for those who remember it themselves.
        """
        if self._family == socket.AF_INET:
            _, port, host = _INET.unpack(raw)
            return socket.inet_ntoa(host), _PORT.unpack(port)[0]
        if self._family == socket.AF_INET6:
            _, port, flow, host, scope = _INET6.unpack(raw)
            text = socket.inet_ntop(socket.AF_INET6, host)
            return text, _PORT.unpack(port)[0], _FLOW.unpack(flow)[0], scope
        path = raw[_FAMILY.size :]
        if path[:1] == b"\0":  # an abstract name has no end but its length
            return path
        return os.fsdecode(path.partition(b"\0")[0])

    def _encode(self, address: Any) -> bytes:
        family = self._family
        if family == socket.AF_INET:
            host, port = address
            return _INET.pack(family, _PORT.pack(port), socket.inet_aton(host))
        if family == socket.AF_INET6:
            flow, scope = (*address[2:], 0, 0)[:2]
            host, port = address[:2]
            bare = socket.inet_pton(family, host.partition("%")[0])
            return _INET6.pack(family, _PORT.pack(port), _FLOW.pack(flow), bare, scope)
        return _FAMILY.pack(family) + os.fsencode(address)
