"""
One connection or socket to a server under test, on asyncio.

A wire only moves bytes; what they mean, its conversation knows. All it can be waited
for is a condition and a time. Errors of the transport are facts about the server, so
they are kept and never raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from protoserve.protocol import Protocol
from protoserve.testing.torturing.cases import Case
from protoserve.testing.torturing.judging import Conversation
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["Wire"]


class Wire(asyncio.Protocol, asyncio.DatagramProtocol):
    """
    A wire; made by `connect`.
    """

    def __init__(self, protocol: Protocol, address: Address) -> None:
        self.address = address
        self.conversation = Conversation(protocol, stream=address.is_stream)
        self.refused = False
        """Whether the system says that nobody is there."""
        self.history: list[Case] = []
        """Cases that it had so far."""
        self._closing = False
        self._transport: Any = None
        self._condition: Callable[[], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None

    @classmethod
    async def connect(
        cls,
        protocol: Protocol,
        address: Address,
        tls: ssl.SSLContext | None,
        patience: float,
    ) -> Self:
        """
        Connect.

        Args:
            protocol: what is spoken.
            address: where.
            tls: what a ``tls://`` server is trusted by.
            patience: seconds.

        Raises:
            OSError: it cannot be done; `TimeoutError` if it takes too long.
        """
        wire = cls(protocol, address)
        loop = asyncio.get_running_loop()
        wire._gone = loop.create_future()
        async with asyncio.timeout(patience):
            if address.transport in ("tcp", "tls"):
                name = address.host if tls is not None else None
                await loop.create_connection(
                    lambda: wire,
                    address.host,
                    address.port or 0,
                    ssl=tls,
                    server_hostname=name,
                )
            elif address.transport == "unix":
                await loop.create_unix_connection(lambda: wire, address.host)
            elif address.transport == "udp":
                target: Any = (address.host, address.port)
                await loop.create_datagram_endpoint(lambda: wire, remote_addr=target)
            else:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                try:
                    sock.setblocking(False)
                    sock.bind(b"")  # the kernel gives it a name, to be answered to
                    sock.connect(address.host)
                except OSError:
                    sock.close()
                    raise
                await loop.create_datagram_endpoint(lambda: wire, sock=sock)
        return wire

    @property
    def alive(self) -> bool:
        """
        Whether the server may still answer here.
        """
        return not (self.refused or self.conversation.closed)

    def send(self, data: bytes) -> None:
        """
        Send bytes, or a datagram.
        """
        self.conversation.sent(data)
        if self.conversation.closed or self._transport.is_closing():
            return
        if self.address.is_stream:
            self._transport.write(data)
        else:
            # One that is too long for the system is not sent.
            with contextlib.suppress(OSError):
                self._transport.sendto(data)

    def end(self) -> None:
        """
        Send nothing more.
        """
        self.conversation.end()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """
        Wait until something is so, or the server has gone, or time is up.

        Returns:
            Whether it is so.
        """
        if condition() or not self.alive:
            return condition()
        loop = asyncio.get_running_loop()
        self._condition, self._waiter = condition, loop.create_future()
        handle = loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            handle.cancel()
            self._condition = self._waiter = None
        return condition()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _changed(self) -> None:
        if self._condition is not None and (not self.alive or self._condition()):
            self._wake()

    async def close(self) -> None:
        """
        Close at once.
        """
        self._closing = True
        if self._transport is not None and self._gone is not None:
            self._transport.abort()
            await self._gone

    # What asyncio calls -------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """
        Take the transport.
        """
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """
        Take bytes of a stream.
        """
        self.conversation.received(data)
        self._changed()

    def datagram_received(self, data: bytes, _address: Any) -> None:
        """
        Take a datagram.
        """
        self.conversation.received(data)
        self._changed()

    def error_received(self, exc: Exception) -> None:
        """
        Take note that a datagram could not be delivered.
        """
        if isinstance(exc, ConnectionRefusedError):
            self.refused = True
            self._changed()

    def eof_received(self) -> bool:
        """
        Take note that the server has closed.
        """
        self.conversation.lost(reset=False)
        self._changed()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Take note that the connection has gone.
        """
        if not (self._closing or self.conversation.closed):
            self.conversation.lost(reset=exc is not None)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._changed()
