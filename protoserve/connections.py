"""
The classic stack's side of a service: one handler class for all its servers.

A stream connection is handled by whatever runs the request (the loop itself, a
thread, a child process) until it ends: bytes in, events to the dispatcher,
answers out, with the limits' deadlines on both ways. The socket never blocks by
itself; waiting is done here, so that a write has its own deadline while another
thread reads, and so that draining can end a wait.

A datagram is one call. The conversation with its sender is kept in the service's
table of peers.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from protoserve.deadlines import Deadlines
from protoserve.errors import PeerTimeoutError
from protoserve.server.handlers import BaseRequestHandler
from protoserve.session import Peer, Role, Session

if TYPE_CHECKING:
    from protoserve.service import Service

__all__ = ["Connection", "Conversation", "ServiceHandler"]

_READ_SIZE = 64 * 1024
_GOODBYE = 0.5
"""Seconds that a peer has to close its side after we have closed ours."""
_LONGEST_WAIT = 3600.0
"""Seconds of one wait in the kernel; its own bound is some 24 days."""


@attrs.define
class Conversation:
    """
    The conversation with a datagram peer. One datagram at a time is handled.
    """

    session: Session
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    begun: bool = False
    """Whether the handler was told of it."""


class ServiceHandler(BaseRequestHandler):
    """
    Serves one stream connection or one datagram for a `Service`.

    `Service.RequestHandlerClass` is a subclass of it, for any server of the
    classic stack and its mix-ins.
    """

    service: ClassVar[Service]

    @classmethod
    def loop_side(cls, server: Any, loop: Any) -> Any:
        """
        Give a server with an event loop what it runs, see `protoserve.loops`.
        """
        from protoserve.loops import ServiceLoopSide

        return ServiceLoopSide(cls.service, server, loop)

    @classmethod
    def drain_requests(cls) -> None:
        """
        Let every connection of this process end when it has nothing in flight.
        """
        cls.service.drain()

    def handle(self) -> None:
        """
        Handle the request, whichever kind it is.
        """
        self.service.open()
        if isinstance(self.request, tuple):
            data, sock = self.request
            receive_datagram(self.service, self.server, sock, data, self.client_address)
        else:
            Connection(self.service, self.request, self.client_address).run()


class Connection:
    """
    One stream connection of a service.

    Args:
        service: whose messages are spoken.
        sock: the connected socket; it becomes non-blocking.
        address: the peer's address.
    """

    def __init__(self, service: Service, sock: socket.socket, address: Any) -> None:
        self.service = service
        self.sock = sock
        self.address = address
        self._lost: OSError | None = None
        self._lock = threading.Lock()
        self._deadlines = Deadlines(time.monotonic())
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = "unix" if sock.family == socket.AF_UNIX else "tcp"
        peer = Peer(transport, address)
        self.session = Session(service.protocol, Role.SERVER, peer)
        self.session.flush = self.flush
        self.session.closer = self.stop_reading

    def run(self) -> None:
        """
        Converse until either side ends it, or a limit is exceeded.

        Raises:
            ConnectionError: the peer went away in the middle.
        """
        service, session = self.service, self.session
        if not service.admit(self):
            return
        try:
            going = service.done(service.dispatcher.connected(session))
            while going:
                data = self._read()
                if data is None:
                    break
                if data:
                    session.receive_data(data)
                else:
                    session.receive_eof()
                going = self._dispatch() and bool(data)
            if self._lost is not None:
                raise self._lost
            self._say_goodbye()
        except PeerTimeoutError as error:
            service.count("write", session.peer, error)
        finally:
            session.closed = True
            service.done(service.dispatcher.disconnected(session))
            service.dismiss(self)

    def _dispatch(self) -> bool:
        """
        Handle all events that are there; say whether to go on.
        """
        session = self.session
        before = session.received
        going = self.service.answer(session)
        if session.received != before:
            self._deadlines.frame_done()
        self._deadlines.after_read(session.buffered, time.monotonic())
        return going and not session.closed

    def _read(self) -> bytes | None:
        """
        Wait for bytes; `None` when a deadline has passed, or draining is done.
        """
        while True:
            try:
                return self.sock.recv(_READ_SIZE)
            except BlockingIOError:
                if self.service.draining:
                    return None
            except OSError as error:
                raise _disconnect(error) from error
            name, start, limit = self._deadlines.next(self.service.limits)
            left = None if limit is None else start + limit - time.monotonic()
            if left is not None and left <= 0:
                self.service.count(name, self.session.peer, f"exceeded {limit} s")
                return None
            _wait(self.sock, select.POLLIN, left, self.service.waker.fileno())

    def flush(self) -> None:
        """
        Send what the session has to send, all of it, whichever thread calls.

        Raises:
            PeerTimeoutError: the peer did not take them within the write limit.
            ConnectionError: the peer has gone.
        """
        with self._lock:  # also while it is taken: the order stays
            data = b"".join(self.session.data_to_send())
            try:
                self._send_all(memoryview(data))
            except (OSError, ValueError) as error:  # ValueError: closed meanwhile
                self._lost = lost = _disconnect(error)
                self.session.close()
                raise lost from error

    def _send_all(self, view: memoryview) -> None:
        limit = self.service.limits.write
        deadline = None if limit is None else time.monotonic() + limit
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise PeerTimeoutError(
                        f"it did not take what was sent within {limit} s"
                    ) from None
                _wait(self.sock, select.POLLOUT, left)

    def _say_goodbye(self) -> None:
        """
        End our side, and wait a moment for the peer to end its own.

        Closed with bytes of the peer's unread, the kernel would reset the
        connection, and answers that are on their way would be lost; nginx calls
        this a lingering close.
        """
        deadline = time.monotonic() + _GOODBYE
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                _wait(self.sock, select.POLLIN, left)
                try:
                    if not self.sock.recv(_READ_SIZE):
                        return
                except BlockingIOError:
                    continue

    def stop_reading(self) -> None:
        """
        End the wait for more bytes; what has arrived is still handled.
        """
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)


def _wait(
    sock: socket.socket, event: int, timeout: float | None, waker: int | None = None
) -> None:
    """
    Wait until a socket is ready, the time is up, or a waker's descriptor is readable.
    """
    poller = select.poll()
    poller.register(sock, event)
    if waker is not None:
        poller.register(waker, select.POLLIN)
    longest = _LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT)
    poller.poll(max(0, int(longest * 1000) + 1))


def _disconnect(error: Exception) -> OSError:
    """
    Bring what a socket raises to what says that the peer has gone.
    """
    if isinstance(error, ConnectionError | PeerTimeoutError):
        return error
    return ConnectionAbortedError(str(error))


def receive_datagram(
    service: Service, server: Any, sock: socket.socket, data: bytes, address: Any
) -> None:
    """
    Handle one datagram.
    """
    while True:
        conversation = service.conversation(server, sock, address)
        with conversation.lock:
            # Closed already: by another thread, while we waited perhaps.
            done = not conversation.session.closed
            if not done or not _converse(service, conversation, data):
                service.forget(server, address, conversation)
            if done:
                return


def _converse(service: Service, conversation: Conversation, data: bytes) -> bool:
    """
    Handle a datagram of a conversation; say whether that goes on.
    """
    session = conversation.session
    if not conversation.begun:
        conversation.begun = True
        if not service.done(service.dispatcher.connected(session)):
            return False
    session.receive_data(data)
    if not service.answer(session):
        return False
    return session.peer is not None and bool(session.peer.address)
