"""
Addresses as people write them: ``tcp://127.0.0.1:1502``, ``unix:///run/x.sock``.
"""

from __future__ import annotations

import difflib
from typing import Any

import attrs

from protoserve.errors import DeclarationError
from protoserve.session import Peer

__all__ = ["DATAGRAMS", "STREAMS", "Address"]

STREAMS = frozenset({"tcp", "tls", "unix"})
DATAGRAMS = frozenset({"udp", "unixgram"})


@attrs.frozen
class Address:
    """
    Where something listens.
    """

    transport: str
    """``tcp``, ``tls``, ``udp``, ``unix`` or ``unixgram``."""

    host: str = ""
    """A name or number; for Unix sockets the path."""

    port: int | None = None
    """0 lets the system choose; `None` for Unix sockets."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """
        Read a URL.

        Args:
            url: ``tcp://host:port``, ``tls://host:port``, ``udp://host:port``,
                ``unix:///path`` or ``unixgram:///path``; IPv6 addresses stand in
                brackets.

        Raises:
            DeclarationError: it is none of these; it says what is missing.

        >>> Address.parse("udp://[::1]:53")
        Address(transport='udp', host='::1', port=53)
        """
        known = sorted(STREAMS | DATAGRAMS)
        if not isinstance(url, str):
            raise DeclarationError(
                f"{url!r} is no URL: expected text such as 'tcp://127.0.0.1:9000'"
            )
        transport, separator, rest = url.partition("://")
        transport = transport.lower()
        if not separator:
            raise DeclarationError(
                f"{url!r} is no URL: expected TRANSPORT://HOST:PORT, with one of "
                f"{', '.join(known)}"
            )
        if transport not in known:
            close = difflib.get_close_matches(transport, known, 1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            )
            raise DeclarationError(f"{url!r}: unknown transport {transport!r}; {hint}")
        if transport.startswith("unix"):
            if not rest:
                raise DeclarationError(f"{url!r}: expected a path after {transport}://")
            return cls(transport, rest)
        host, colon, port = rest.rpartition(":")
        digits = port.isascii() and port.isdigit() and len(port) <= 5
        if not colon or not digits or int(port) > 65535:
            raise DeclarationError(
                f"{url!r}: expected HOST:PORT with a port in 0..65535"
            )
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise DeclarationError(
                f"{url!r}: put an IPv6 address in brackets, [{host}]"
            )
        return cls(transport, host, int(port))

    @classmethod
    def bound(cls, transport: str, address: Any) -> Address:
        """
        Describe a socket's own address.
        """
        own = Peer(transport, address)
        return cls(transport, own.host, own.port)

    @property
    def is_stream(self) -> bool:
        """
        Whether bytes come as a stream there.
        """
        return self.transport in STREAMS

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.transport}://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"
