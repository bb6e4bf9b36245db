"""
Stream sockets of an event loop, watched all together.

An event loop makes several objects for each connection, and calls through them for each
read. Here one `epoll` of our own knows all sockets, and the loop watches that: when any
are ready, one call reads from all of them. An idle connection costs one small object, and
it makes no difference which event loop it is.

`DirectTransport` is an asyncio transport as far as an `asyncio.Protocol` can tell. Where
the system has no epoll, the loop's own transports do the same.

Traps that are avoided here:

- A socket that nothing is wanted of is not watched at all: epoll would tell of a peer
  that has gone again and again.
- A descriptor that was closed while others were attended to may be somebody else's by
  now; what is read by its old transport is nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Any

__all__ = ["DirectSockets", "DirectTransport"]

_READ_SIZE = 64 * 1024
_BURST = 256
"""Sockets that are asked for at a time."""
_ROUNDS = 4
"""Times that they are asked for before the loop does what else is due."""
_MARK = 64 * 1024
"""Bytes that wait to be sent before the protocol is asked to pause."""

_IN = getattr(select, "EPOLLIN", 0)
_OUT = getattr(select, "EPOLLOUT", 0)


class DirectSockets:
    """
    The connections of one server.

    Args:
        loop: where their protocols are called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.epoll = select.epoll()
        self.transports: dict[int, DirectTransport] = {}
        loop.add_reader(self.epoll.fileno(), self._attend)

    def connect(self, sock: socket.socket, protocol: Any) -> DirectTransport:
        """
        Connect a socket and a protocol.
        """
        sock.setblocking(False)
        transport = DirectTransport(self, sock, protocol)
        self.transports[sock.fileno()] = transport
        transport.resume_reading()
        protocol.connection_made(transport)
        return transport

    def _attend(self) -> None:
        """
        Attend to what is ready, and to what has become so meanwhile.
        """
        for _ in range(_ROUNDS):
            ready = self.epoll.poll(0, _BURST)
            if not ready:
                return
            self._attend_to(ready)

    def _attend_to(self, ready: list[tuple[int, int]]) -> None:
        transports = self.transports
        for descriptor, events in ready:
            transport = transports.get(descriptor)
            if transport is None:
                continue
            try:
                if events != _OUT:
                    transport.read()
                if events & _OUT:
                    transport.write_on()
            except Exception as exc:
                self.loop.call_exception_handler(
                    {
                        "message": "a protocol failed",
                        "exception": exc,
                        "transport": transport,
                        "protocol": transport.protocol,
                    }
                )
                transport.abort()

    def close(self) -> None:
        """
        Watch nothing any more.
        """
        self.loop.remove_reader(self.epoll.fileno())
        self.epoll.close()


class DirectTransport(asyncio.Transport):
    """
    One connection.
    """

    __slots__ = (
        "_closing",
        "_descriptor",
        "_ends_after",
        "_events",
        "_high",
        "_over",
        "_paused",
        "_receive",
        "_received",
        "_send",
        "_sockets",
        "_unsent",
        "protocol",
        "sock",
    )

    def __init__(
        self, sockets: DirectSockets, sock: socket.socket, protocol: Any
    ) -> None:
        self._sockets = sockets
        self.sock = sock
        self.protocol = protocol
        self._descriptor = sock.fileno()
        self._receive, self._send = sock.recv, sock.send
        self._received = protocol.data_received
        self._unsent = bytearray()
        self._high = _MARK
        self._events = 0
        self._closing = False
        self._ends_after = False
        """Whether our side ends when everything is sent."""
        self._over = False
        """Whether the protocol knows that it is over."""
        self._paused = False
        """Whether the protocol was asked to pause."""

    def _watch(self, events: int) -> None:
        if events == self._events:
            return
        epoll = self._sockets.epoll
        if not events:
            with contextlib.suppress(OSError):  # it may be closed already
                epoll.unregister(self._descriptor)
        elif self._events:
            epoll.modify(self._descriptor, events)
        else:
            epoll.register(self._descriptor, events)
        self._events = events

    # Reading ---------------------------------------------------------------

    def read(self) -> None:
        """
        Hand over what has arrived.
        """
        if not self._events & _IN:
            return  # since it was found ready
        try:
            data = self._receive(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(exc)
            return
        if data:
            self._received(data)
            return
        self._watch(self._events & ~_IN)
        if not self.protocol.eof_received():
            self.close()

    def is_reading(self) -> bool:
        """
        Whether what arrives is handed over.
        """
        return bool(self._events & _IN)

    def pause_reading(self) -> None:
        """
        Leave what arrives with the kernel.
        """
        if not self._closing:
            self._watch(self._events & ~_IN)

    def resume_reading(self) -> None:
        """
        Hand over what arrives.
        """
        if not self._closing:
            self._watch(self._events | _IN)

    # Writing ---------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """
        Send bytes, now as far as the peer takes them.
        """
        if self._closing or self._ends_after:
            return
        if not self._unsent:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self._lose(exc)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            self._watch(self._events | _OUT)
        self._unsent += data
        if not self._paused and len(self._unsent) > self._high:
            self._paused = True
            self.protocol.pause_writing()

    def write_on(self) -> None:
        """
        Send more of what is left.
        """
        unsent = self._unsent
        try:
            if unsent:
                with memoryview(unsent) as view:
                    sent = self._send(view)
                del unsent[:sent]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(exc)
            return
        if not unsent:
            self._watch(self._events & ~_OUT)
            if self._ends_after:
                self._end_side()
            if self._closing:
                self._lose(None)
                return
        if self._paused and len(unsent) <= self._high // 4:
            self._paused = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """
        How many bytes wait to be sent.
        """
        return len(self._unsent)

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """
        Say how many bytes may wait before the protocol is asked to pause.
        """
        del low  # a quarter of it
        self._high = _MARK if high is None else high

    def can_write_eof(self) -> bool:
        """
        Whether our side can be ended before the peer's.
        """
        return True

    def write_eof(self) -> None:
        """
        End our side, after what was sent.
        """
        if self._closing or self._ends_after:
            return
        self._ends_after = True
        if not self._unsent:
            self._end_side()

    def _end_side(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    # Ending ----------------------------------------------------------------

    def is_closing(self) -> bool:
        """
        Whether it was closed.
        """
        return self._closing

    def close(self) -> None:
        """
        End the connection after what was sent.
        """
        if self._closing:
            return
        self._closing = True
        self._watch(self._events & ~_IN)
        if not self._unsent:
            self._sockets.loop.call_soon(self._lost, None)

    def abort(self) -> None:
        """
        End the connection now.
        """
        self._lose(None)

    def _lose(self, exc: Exception | None) -> None:
        self._closing = True
        self._unsent.clear()
        self._watch(0)
        self._sockets.loop.call_soon(self._lost, exc)

    def _lost(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        transports = self._sockets.transports
        # The descriptor may be somebody else's already.
        if transports.get(self._descriptor) is self:
            del transports[self._descriptor]
        try:
            self.protocol.connection_lost(exc)
        finally:
            if self.sock.fileno() >= 0:
                self.sock.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """
        Tell about the connection: its ``socket`` and ``peername``.
        """
        if name == "socket":
            return self.sock
        if name == "peername":
            return self.sock.getpeername()
        return default

    def get_protocol(self) -> Any:
        """
        What is told of everything.
        """
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        """
        Let somebody else be told from now on.
        """
        self.protocol = protocol
        self._received = protocol.data_received
