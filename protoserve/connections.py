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
import logging
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

from protoserve.errors import PeerTimeoutError
from protoserve.events import (
    NEED_DATA,
    Event,
    MessageReceived,
    MessageRejected,
    StreamBroken,
)
from protoserve.server.handlers import BaseRequestHandler
from protoserve.session import Peer, Role, Session

if TYPE_CHECKING:
    from protoserve.service import Service

__all__ = ["Connection", "ServiceHandler"]

logger = logging.getLogger("protoserve")

_READ_SIZE = 64 * 1024
_GOODBYE = 0.5
"""Seconds that a peer has to close its side after we have closed ours."""


class ServiceHandler(BaseRequestHandler):
    """
    Serves one stream connection or one datagram for a `Service`.

    `Service.RequestHandlerClass` is a subclass of it, for any server of the
    classic stack and its mix-ins.
    """

    service: ClassVar[Service]

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
        self.busy = False
        self._lock = threading.Lock()
        self._opened_at = self._last_frame_at = time.monotonic()
        self._frame_started_at: float | None = None
        self._had_frame = False
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = "unix" if sock.family == socket.AF_UNIX else "tcp"
        peer = Peer(transport, address)
        self.session = Session(service.protocol, Role.SERVER, peer)
        self.session.writer = self.write
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
            going = service.dispatcher.connected(session)
            while going:
                data = self._read()
                if data is None:
                    break
                if data:
                    session.receive_data(data)
                else:
                    session.receive_eof()
                going = self._dispatch() and bool(data)
            self._say_goodbye()
        except PeerTimeoutError as error:
            logger.warning("%s is closed: %s", session.peer, error)
        finally:
            session.closed = True
            service.dismiss(self)
            service.dispatcher.disconnected(session)

    def _dispatch(self) -> bool:
        """
        Handle all events that are there; say whether to go on.
        """
        session = self.session
        self.busy = True
        try:
            while (event := session.next_event()) is not NEED_DATA:
                if isinstance(event, MessageReceived | MessageRejected):
                    self._had_frame = True
                    self._frame_started_at = None
                if not handle_event(self.service, session, event):
                    return False
        finally:
            self.busy = False
        now = time.monotonic()
        if not session.buffered:
            self._frame_started_at = None
            self._last_frame_at = now
        elif self._frame_started_at is None:
            self._frame_started_at = now
        return not session.closed

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
            reason, deadline = self._deadline()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                logger.info("%s is closed: %s", self.session.peer, reason)
                return None
            _wait(self.sock, select.POLLIN, left, self.service.waker.fileno())

    def _deadline(self) -> tuple[str, float | None]:
        """
        Say until when the next bytes must come, and what has not happened by then.
        """
        limits = self.service.limits
        if self._frame_started_at is not None:
            start, limit, what = self._frame_started_at, limits.frame, "whole frame"
        elif self._had_frame:
            start, limit, what = self._last_frame_at, limits.idle, "new frame"
        else:
            start, limit, what = self._opened_at, limits.first_frame, "first frame"
        if limits.first_frame is not None and not self._had_frame:
            first = self._opened_at + limits.first_frame
            if limit is None or first < start + limit:
                start, limit = self._opened_at, limits.first_frame
        reason = f"no {what} within {limit} s"
        return reason, None if limit is None else start + limit

    def write(self, data: bytes) -> None:
        """
        Send bytes, all of them, whichever thread calls.

        Raises:
            PeerTimeoutError: the peer did not take them within the write limit.
            ConnectionError: the peer has gone.
        """
        limit = self.service.limits.write
        with self._lock:
            deadline = None if limit is None else time.monotonic() + limit
            view = memoryview(data)
            while view:
                try:
                    view = view[self.sock.send(view) :]
                except BlockingIOError:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        self.session.close()
                        raise PeerTimeoutError(
                            f"it took nothing of what was sent for {limit} s"
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
    poller.poll(None if timeout is None else max(0, int(timeout * 1000) + 1))


def handle_event(service: Service, session: Session, event: Event) -> bool:
    """
    Hand one event to the dispatcher; say whether to go on.
    """
    dispatcher = service.dispatcher
    if isinstance(event, MessageReceived):
        return dispatcher.received(session, event)
    if isinstance(event, MessageRejected):
        return dispatcher.rejected(session, event)
    if isinstance(event, StreamBroken):
        dispatcher.broken(session, event.error)
    return False


def receive_datagram(
    service: Service, server: Any, sock: socket.socket, data: bytes, address: Any
) -> None:
    """
    Handle one datagram.
    """
    session, new = service.datagram_session(server, sock, address)
    if new and not service.dispatcher.connected(session):
        return
    session.receive_data(data)
    while (event := session.next_event()) is not NEED_DATA:
        if not handle_event(service, session, event):
            service.forget_datagram_session(server, address)
            return
