"""
The classic stack's side of a service: one handler class for all its servers.

A stream connection is handled by whatever runs the request (the loop itself, a
thread, a child process) until it ends: bytes in, events to the dispatcher,
answers out, with the limits' deadlines on both ways. The socket never blocks by
itself; waiting is done here, so that a write has its own deadline while another
thread reads, and so that draining can end a wait.

A datagram is one call, see `protoserve.datagrams`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from protoserve.datagrams import receive_datagram
from protoserve.deadlines import GOOD_PART, GOODBYE, MOST_PUSHED, Deadlines
from protoserve.dispatch import Outcome, complete
from protoserve.errors import PeerTimeoutError
from protoserve.server.handlers import BaseRequestHandler
from protoserve.session import Peer

if TYPE_CHECKING:
    from protoserve.service import Service

__all__ = ["Connection", "ServiceHandler"]

_READ_SIZE = 64 * 1024
_LONGEST_WAIT = 3600.0
"""Seconds of one wait in the kernel; its own bound is some 24 days."""


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
    def parkable(cls, _server: Any, request: Any, client_address: Any) -> Any:
        """
        Give a `PoolMixIn` a connection that goes on in steps; `None` for a datagram.
        """
        cls.service.open()
        if isinstance(request, tuple):
            return None
        return Connection(cls.service, request, client_address)

    @classmethod
    def batch_side(cls, server: Any) -> Any:
        """
        Give a server that receives batches what it runs, see `protoserve.blocks`.
        """
        from protoserve.blocks import ServiceBatchSide

        return ServiceBatchSide(cls.service, server)

    @classmethod
    def handshake_limit(cls) -> float | None:
        """
        Give a `TLSMixIn` the seconds that a handshake may take; `None` for no limit.
        """
        return 0.0 if cls.service.draining else cls.service.limits.handshake

    @classmethod
    def handshake_failed(cls, client_address: Any, error: Any) -> None:
        """
        Be told by a `TLSMixIn` of a `HandshakeError`.
        """
        cls.service.count_handshake(Peer("tls", client_address), error)

    @classmethod
    def admit_request(cls, request: Any, client_address: Any) -> Any:
        """
        Let a `ForkingMixIn` ask, before it forks, whether the limits allow a connection.

        Returns:
            `None` if not; else what is to be called when its child has ended.
        """
        is_datagram = isinstance(request, tuple)
        cls.service.dispatcher.prepare_all(stream=not is_datagram)
        return _nothing if is_datagram else cls.service.reserve(request, client_address)

    @classmethod
    def queue_limit(cls) -> int | None:
        """
        Give a `PoolMixIn` how many requests may wait; `None` for no limit.
        """
        return cls.service.limits.queue

    @classmethod
    def queue_refused(cls, request: Any, client_address: Any) -> None:
        """
        Be told by a `PoolMixIn` of a request that found the queue full.
        """
        stream = not isinstance(request, tuple)
        internet = isinstance(client_address, tuple)
        transports = ("tcp", "udp") if internet else ("unix", "unixgram")
        peer = Peer(transports[not stream], client_address)
        cls.service.count("queue", peer, f"{cls.queue_limit()} requests wait")

    @classmethod
    def process_ends(cls) -> None:
        """
        Be told that a process that was forked to serve is about to end.
        """
        cls.service.flush()

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


def _nothing() -> None:
    pass


class Connection:
    """
    One stream connection of a service.

    It goes on in steps, `advance`, that never wait for the peer; between two of them
    it needs no thread. `run` goes through all of them in one.

    Args:
        service: whose messages are spoken.
        sock: the connected socket; it becomes non-blocking.
        address: the peer's address.
    """

    def __init__(self, service: Service, sock: socket.socket, address: Any) -> None:
        self.service = service
        self.sock = sock
        self.address = address
        self.awaits = select.POLLIN
        """What the next step needs, as `select.poll` knows it."""
        self.deadline: float | None = None
        """When the next step is due even so, in monotonic seconds."""
        self.ending = False
        """Whether to end as soon as nothing is in flight."""
        self._stage: Callable[[], bool | None] = self._begin
        self._steps: Outcome = True
        self._unsent: bytes | memoryview = b""
        self._stuck_since: float | None = None
        """When what is unsent began to wait, or the peer had taken a good part of it."""
        self._taken = 0
        """Bytes that the peer has taken since."""
        self._beside: Any = None
        """The event loop that sends what coroutines have pushed, if one does."""
        self._parting_until: float | None = None
        self._emptied = False
        """Whether the last read took all that there was."""
        self._ended = False
        self._lost: OSError | None = None
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._awaits_route = False
        """Whether what a route has begun is waited for."""
        self._deadlines = Deadlines(time.monotonic())
        sock.setblocking(False)
        internet = isinstance(address, tuple)
        if internet:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._over_tls = hasattr(sock, "getpeercert")
        if self._over_tls:
            peer = Peer.over_tls(sock, address)
        else:
            peer = Peer("tcp" if internet else "unix", address)
        self.session = service.session(peer, sock=sock)
        self.session.flush = self.flush
        self.session.closer = self.stop_reading
        self.session.flow = self._flow

    def fileno(self) -> int:
        """
        Return the socket's descriptor.
        """
        return self.sock.fileno()

    def run(self) -> None:
        """
        Converse until either side ends it, or a limit is exceeded.

        Raises:
            ConnectionError: the peer went away in the middle.
        """
        waker = self.service.waker.fileno()
        poller = select.poll()
        while self.advance():
            poller.register(self.sock, self.awaits)
            # It stays readable, and what is under way ends by itself.
            idle = self._stage == self._converse and self.awaits == select.POLLIN
            poller.register(waker, select.POLLIN if idle else 0)
            poller.poll(_milliseconds(self.deadline))

    def advance(self) -> bool:
        """
        Go on as far as that is possible without waiting for the peer.

        Returns:
            Whether there is more to come: when the socket is ready for `awaits`, or
            at the `deadline`.

        Raises:
            ConnectionError: the peer went away in the middle.
        """
        self._thread = threading.get_ident()
        waits: bool | None = None
        try:
            while waits is None:
                waits = self._stage()
        except PeerTimeoutError as error:
            self.service.count("write", self.session.peer, error)
        finally:
            self._thread = None
            if not waits:
                self._finish()
        return bool(waits)

    # The stages: each gives whether to wait, or `None` if another stage is next. -----

    def _begin(self) -> bool | None:
        if not self.service.admit(self):
            self._stage = self._done
            return False
        self._stage = self._converse
        self._steps = self.service.dispatcher.connected(self.session)
        return None

    def _converse(self) -> bool | None:
        """
        Answer what has arrived, and read on, until the peer has to do something.
        """
        dispatcher = self.service.dispatcher
        while True:
            if self._unsent and not self._send_rest():
                return True
            if self._steps is not True:
                going = self._go_through()
                if going is None:
                    continue
                if not going:
                    break
                self._answered(dispatcher.answer(self.session))
                continue
            if self.session.closed or self._ended:
                break
            data = self._read()
            if data is None:
                return True if self._stage == self._converse else None
            if data:
                self._answered(dispatcher.take(self.session, data))
            else:
                self._ended = True
                self.session.receive_eof()
                self._answered(dispatcher.answer(self.session))
        self._stage = self._part
        return None

    def _go_through(self) -> bool | None:
        """
        Go through the steps that answer a message; `None`: not to their end yet.
        """
        try:
            going = complete(self._steps, self._wait_for)
        except _Suspended:
            return None
        self._steps = True
        return going

    def _answered(self, outcome: Outcome) -> None:
        """
        Take note of what came of answering; it may need more steps.
        """
        self._steps = outcome
        if outcome is True:
            session = self.session
            buffered = 0 if session.spent else session.buffered
            self._deadlines.after_read(session.received, buffered, time.monotonic())

    def _read(self) -> bytes | None:
        """
        Take what has arrived; `None`: wait for more, or another stage has begun.
        """
        self.awaits = select.POLLIN
        if not self._emptied or self._ending:
            try:
                data = self._receive()
            except BlockingIOError as error:
                if self._ending:
                    self._stage = self._part
                    return None
                self.awaits = getattr(error, "event", select.POLLIN)
            except OSError as error:
                raise _disconnect(error) from error
            else:
                # What TLS holds back of a record is not told by the socket.
                self._emptied = 0 < len(data) < _READ_SIZE and not self._over_tls
                return data
        self._emptied = False
        name, start, limit = self._deadlines.next(self.service.limits)
        if limit is None:
            self.deadline = None
            return None
        self.deadline = start + limit
        if time.monotonic() >= self.deadline:
            self.service.count(name, self.session.peer, f"exceeded {limit} s")
            self._stage = self._part
        return None

    def _receive(self) -> bytes:
        if self._over_tls:
            # OpenSSL lets nobody read while another thread writes.
            with self._lock:
                return self.sock.recv(_READ_SIZE)
        return self.sock.recv(_READ_SIZE)

    def _part(self) -> bool | None:
        """
        End our side, and wait a moment for the peer to end its own.

        Closed with bytes of the peer's unread, the kernel would reset the
        connection, and answers that are on their way would be lost; nginx calls
        this a lingering close.
        """
        if self._lost is not None:
            raise self._lost
        if self._unsent and not self._send_rest():
            return True
        self.session.closed = True
        if self._ended:
            return False
        until = self._parting_until
        try:
            if until is None:
                until = self._parting_until = time.monotonic() + GOODBYE
                self.sock.shutdown(socket.SHUT_WR)
            while self._receive() and time.monotonic() < until:
                pass
        except BlockingIOError as error:
            self.awaits = getattr(error, "event", select.POLLIN)
            self.deadline = until
            return until is not None and time.monotonic() < until
        except OSError:
            pass
        return False

    def _done(self) -> bool | None:
        return False

    def _finish(self) -> None:
        if self._stage == self._done:
            return
        self._stage = self._done
        self.session.closed = True
        beside, self._beside = self._beside, None
        if beside is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                beside.call_soon_threadsafe(beside.remove_writer, self.sock.fileno())
        try:
            self.service.done(self.service.dispatcher.disconnected(self.session))
        finally:
            self.service.dismiss(self)

    @property
    def _ending(self) -> bool:
        return self.ending or self.service.draining

    # Sending ---------------------------------------------------------------

    def flush(self) -> None:
        """
        Send what the session has to send, whichever thread calls.

        In the thread that advances the connection some of it may wait for the next
        step, and so it may in that of coroutines; any other one waits until all is sent.

        Raises:
            PeerTimeoutError: the peer did not take it within the write limit.
            ConnectionError: the peer has gone.
        """
        own = self._thread == threading.get_ident()
        if own and self._send_alone():
            return
        with self._lock:  # also while it is taken: the order stays
            most = self._most_unsent()
            # Who heeds `Session.flow` never has to wait here.
            waits = not own or len(self._unsent) > most
            waiting = self.session.data_to_send()
            self._unsent = b"".join((self._unsent, *waiting))
        event, deadline = self._send_more()
        if not own and self._unsent and self.service._background.is_here():
            self._send_beside(most)
            return
        while waits and len(self._unsent) > (most if own else 0):
            _wait(self.sock, event, deadline)
            event, deadline = self._send_more()

    def _send_alone(self) -> bool:
        """
        Send a message that nothing waits beside, as most do; say whether that was all.
        """
        outgoing = self.session.outgoing
        with self._lock:
            if self._unsent or len(outgoing) != 1:
                return False
            data = outgoing.popleft()
            try:
                sent = self.sock.send(data)
            except (OSError, ValueError):  # the longer way finds out
                sent = 0
            if sent == len(data):
                return True
            self._unsent = memoryview(data)[sent:]
            return False

    def _send_beside(self, most: int) -> None:
        """
        Let the event loop that this is called on send the rest.
        """
        if len(self._unsent) > MOST_PUSHED * most:
            reason = f"{len(self._unsent)} bytes wait to be sent to it"
            self.service.count("write_buffer", self.session.peer, reason)
            self.end()
            return
        import asyncio

        loop = self._beside = asyncio.get_running_loop()
        descriptor = self.sock.fileno()

        def send() -> None:
            try:
                _, deadline = self._send_more()
            except (OSError, ValueError):  # the connection ends then
                deadline = None
            if deadline is None and self._beside is not None:
                loop.remove_writer(descriptor)

        loop.add_writer(descriptor, send)
        if self.service.limits.write is not None:
            loop.call_later(self.service.limits.write, send)

    def _send_more(self) -> tuple[int, float | None]:
        """
        Send what the peer takes at once; say what to wait for, and until when.

        Raises:
            PeerTimeoutError: the peer did not take enough within the write limit.
            ConnectionError: the peer has gone.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            try:
                return self._send(), self._write_deadline()
            except (OSError, ValueError) as error:  # ValueError: closed meanwhile
                self._lost = lost = _disconnect(error)
                self._unsent = b""
                self.session.close()
                raise lost from error

    def _send(self) -> int:
        """
        Send what the peer takes at once; say what has to be waited for to send more.
        """
        view = memoryview(self._unsent)
        event = select.POLLOUT
        try:
            while view:
                view = view[self.sock.send(view) :]
        except BlockingIOError as error:
            event = getattr(error, "event", event)
        self._taken += len(self._unsent) - len(view)
        if not view:
            self._stuck_since = None
        elif self._stuck_since is None or self._taken >= GOOD_PART:
            self._stuck_since = time.monotonic()
            self._taken = 0
        self._unsent = view or b""
        return event

    def _send_rest(self) -> bool:
        """
        Send what is left; say whether that was all.
        """
        self.awaits, self.deadline = self._send_more()
        return not self._unsent

    def _write_deadline(self) -> float | None:
        """
        Give when the peer must have taken more of what is unsent.
        """
        limit = self.service.limits.write
        if limit is None or self._stuck_since is None:
            return None
        deadline = self._stuck_since + limit
        if time.monotonic() >= deadline:
            raise PeerTimeoutError(f"it did not take what was sent within {limit} s")
        return deadline

    def _most_unsent(self) -> int:
        return self.service.limits.write_buffer or sys.maxsize

    def _flow(self) -> Any:
        return _ROOM if len(self._unsent) > self._most_unsent() else None

    def _wait_for(self, awaited: Any) -> Any:
        """
        Wait for what a route has begun; not for the peer, though.
        """
        if awaited is not _ROOM:
            self._awaits_route = True
            try:
                return self.service._background.run(awaited)
            finally:
                self._awaits_route = False
        if self._unsent:
            raise _Suspended
        return None

    def end(self) -> None:
        """
        End the connection now, whatever is in flight.
        """
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def stop_reading(self) -> None:
        """
        End the wait for more bytes; what has arrived is still handled.
        """
        if self._awaits_route or self._thread == threading.get_ident():
            # Nobody waits for bytes, and the kernel would answer more of them by a
            # reset, even before the peer has what was sent.
            return
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)


class _Suspended(BaseException):
    """
    The peer has to take what was sent before more is made.
    """


_ROOM = object()
"""What is awaited until the peer has taken what was sent."""


def _wait(sock: socket.socket, event: int, deadline: float | None) -> None:
    """
    Wait until a socket is ready, or the time has come.
    """
    poller = select.poll()
    poller.register(sock, event)
    poller.poll(_milliseconds(deadline))


def _milliseconds(deadline: float | None) -> int:
    """
    Give how long a wait may take, as `select.poll` counts.
    """
    left = _LONGEST_WAIT if deadline is None else deadline - time.monotonic()
    return max(0, int(min(left, _LONGEST_WAIT) * 1000) + 1)


def _disconnect(error: Exception) -> OSError:
    """
    Bring what a socket raises to what says that the peer has gone.
    """
    if isinstance(error, ConnectionError | PeerTimeoutError):
        return error
    return ConnectionAbortedError(str(error))
