"""
One connection of a client under an event loop, shared by tasks.

The loop reads, and hands what came to the `Calls`; a task that waits has a future and
one timer. What is written waits while the transport's buffer is full.
"""

# ruff: noqa: ASYNC109 - a peer's time has an error of its own

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, cast

from protoserve.client._call import Call, Options, Stats, Unread, due_first
from protoserve.client._calls import Calls
from protoserve.client._connecting import (
    Target,
    connected_datagrams,
    found,
    naming,
    without_delay,
)
from protoserve.errors import PeerTimeoutError, SessionClosedError
from protoserve.events import MessageReceived
from protoserve.messages import Message
from protoserve.protocol import Protocol
from protoserve.session import Peer

__all__ = ["AsyncLink", "async_opened"]

_GOODBYE = 0.5
"""Seconds that the other side has to take what is left, when we close."""


class AsyncLink(asyncio.Protocol, asyncio.DatagramProtocol):
    """
    A connection and its calls.

    Args:
        protocol: what is spoken.
        target: whom to.
        options: patience and bounds.
        stats: what is counted.
        unread: what came and was not received.
    """

    calls: Calls

    def __init__(
        self,
        protocol: Protocol,
        target: Target,
        options: Options,
        stats: Stats,
        unread: Unread,
    ) -> None:
        self.target = target
        self._stream = target.stream
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        self._room: asyncio.Future[None] | None = None
        """Is there while nothing more should be written."""
        self._protocol, self._options = protocol, options
        self._stats, self._unread = stats, unread

    @property
    def usable(self) -> bool:
        """
        Whether the conversation can go on.
        """
        return self.calls.failure is None

    async def close(self, error: BaseException) -> None:
        """
        End the connection, and tell who waits.
        """
        self.calls.fail(error)
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await asyncio.shield(self._lost)
        self.abort()

    def abort(self) -> None:
        """
        Forget the connection.
        """
        self._transport.abort()

    # What the loop calls -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Take the transport.
        """
        self._transport = cast("Any", transport)
        tls = transport.get_extra_info("ssl_object")
        where = transport.get_extra_info("peername")
        scheme = self.target.address.transport
        peer = Peer(scheme, where) if tls is None else Peer.over_tls(tls, where)
        self.calls = Calls(
            self._protocol,
            stream=self._stream,
            peer=peer,
            options=self._options,
            stats=self._stats,
            unread=self._unread,
            clock=self._loop.time,
        )

    def data_received(self, data: bytes) -> None:
        """
        Take bytes of the stream.
        """
        if self.calls.failure is None:
            self.calls.receive(data)
        if self.calls.failure is not None:
            self._transport.abort()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 - the socket is connected
        """
        Take a datagram.
        """
        if self.calls.failure is None:
            self.calls.receive(data)

    def eof_received(self) -> None:
        """
        Take note that the peer will send nothing more.
        """
        if self.calls.failure is None:
            self.calls.receive_eof()

    def error_received(self, exc: Exception) -> None:
        """
        Tell everybody of an error; of a datagram, so the next may be fine.
        """
        self.calls.fail(self._named(exc), over=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Tell everybody that it is over.
        """
        if exc is None:
            exc = SessionClosedError(f"{self.calls.session.peer} closed the session")
        self.calls.fail(self._named(exc))
        self.resume_writing()
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        """
        Let who writes wait.
        """
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """
        Let who writes go on.
        """
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _named(self, exc: Exception) -> Exception:
        """
        Put the peer into an error of the system.
        """
        if not isinstance(exc, OSError) or exc.errno is None:
            return exc
        if isinstance(exc, ssl.SSLError):
            return exc
        peer = str(self.calls.session.peer)
        return type(exc)(exc.errno, os.strerror(exc.errno), peer)

    # Calls -------------------------------------------------------------------

    def ask(
        self,
        request: Message,
        *,
        header: Any = None,
        timeout: float | None,
        several: bool = False,
    ) -> Call:
        """
        Make a call, which `start` sends.
        """
        try:
            return self.calls.ask(
                request, header=header, timeout=timeout, several=several
            )
        except SessionClosedError:
            self.abort()
            raise

    async def start(self, calls: Sequence[Call]) -> None:
        """
        Send requests.
        """
        try:
            await self._way_is_free(calls[0].timeout)
        except BaseException:
            self.give_up(calls)
            raise
        waiting = [call for call in calls if not call.ready]
        for call in waiting:
            self.calls.begin(call)
        self._write([call.data for call in waiting])

    async def send(self, message: Message, header: Any, timeout: float | None) -> bytes:
        """
        Send a message that nobody waits for an answer to; give its bytes.
        """
        await self._way_is_free(timeout)
        try:
            data = self.calls.send(message, header=header)
        except SessionClosedError:
            self.abort()
            raise
        self._write([data])
        return data

    def give_up(self, calls: Iterable[Call]) -> None:
        """
        Stop waiting for some answers.
        """
        for call in calls:
            self.calls.give_up(call)

    async def result(
        self, call: Call, together: Iterable[Call] = ()
    ) -> MessageReceived:
        """
        Wait for an answer.

        Args:
            call: what was asked.
            together: calls that are waited for after it; what is due for them is done.
        """
        try:
            while not call.ready:
                first = due_first(call, together)
                if not await self._woken(call, first.due):
                    again = self.calls.overdue(first)
                    if again is not None:
                        self._write([again])
        except BaseException:
            self.calls.give_up(call)
            raise
        return call.result()

    async def _woken(self, call: Call, due: float | None) -> bool:
        """
        Wait until there is something, or something is due; say whether it is the first.
        """
        woken = self._loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        call.waker = wake
        timer = None
        if due is not None and due != math.inf:
            timer = self._loop.call_at(due, wake)
        try:
            await woken
        finally:
            call.waker = None
            if timer is not None:
                timer.cancel()
        return call.ready

    # Bytes -------------------------------------------------------------------

    async def _way_is_free(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                while self._room is not None:
                    await asyncio.shield(self._room)
        except TimeoutError as exc:
            error = PeerTimeoutError(f"{self.calls.session.peer} does not read")
            raise error from exc
        self.calls.check()

    def _write(self, data: Sequence[bytes]) -> None:
        if self._stream:
            self._transport.writelines(data)
        else:
            for piece in data:
                self._transport.sendto(piece)


async def async_opened(link: AsyncLink, timeout: float | None) -> AsyncLink:
    """
    Connect; the handshake of TLS is done too.

    Raises:
        PeerTimeoutError: it took too long.
        OSError: the system's own error, with the URL.
    """
    try:
        with naming(link.target.address):
            async with asyncio.timeout(timeout):
                await _connect(link, link.target)
    except TimeoutError as exc:
        raise link.target.timed_out(timeout) from exc
    return link


async def _connect(link: AsyncLink, target: Target) -> None:
    loop, address = asyncio.get_running_loop(), target.address
    if address.port is None:
        places: Sequence[tuple[int, Any]] = found(address)
    else:
        kind = socket.SOCK_STREAM if target.stream else socket.SOCK_DGRAM
        infos = await loop.getaddrinfo(
            address.host or "localhost", address.port, type=kind
        )
        places = [(info[0], info[4]) for info in infos]
    if not target.stream:
        sock, _ = connected_datagrams(address, places)
        await loop.create_datagram_endpoint(lambda: link, sock=sock)
        return
    sock = await _first_of(places)
    host = None if target.tls is None else address.host
    try:
        await loop.create_connection(
            lambda: link, sock=sock, ssl=target.tls, server_hostname=host
        )
    except BaseException:
        sock.close()
        raise


async def _first_of(places: Sequence[tuple[int, Any]]) -> socket.socket:
    """
    Connect to the first address where somebody listens.
    """
    failure: OSError | None = None
    for family, where in places:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, where)
            without_delay(sock)
            return sock
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
    assert failure is not None
    raise failure
