"""
The event loop's side of a service: what `EventLoopMixIn` runs.

A stream connection is an asyncio protocol: what one read delivered is cut into frames
and answered in one pass, and the answers leave in one write. Routes that are coroutines run as tasks; meanwhile the connection's next
frames wait, or run beside it where the protocol can tell their answers apart, up to
a limit. Reading pauses while the peer does not take what was sent.

Deadlines are looked at by one sweep for all connections, so that an idle connection
costs a few hundred bytes and no timer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import sys
import threading
import time
from collections import Counter, deque
from itertools import repeat
from typing import TYPE_CHECKING, Any

from protoserve.deadlines import GOOD_PART, GOODBYE, MOST_PUSHED, Deadlines
from protoserve.dispatch import Outcome, begin, complete_async
from protoserve.errors import PeerTimeoutError
from protoserve.session import MOST_HELD, Peer, Session

if TYPE_CHECKING:
    from protoserve.service import Service

__all__ = ["LoopConnection", "ServiceLoopSide"]

_LARGEST_MARK = (1 << 31) - 1
"""What uvloop can hold of a high-water mark, in bytes."""
_MOST_TASKS = 1024
"""Coroutines beyond which datagrams wait in the kernel."""
_take_first = deque.popleft
_SWEEP = 1.0
"""Seconds between two looks at the deadlines, at most."""


class ServiceLoopSide:
    """
    Everything of one service on one event loop.

    Args:
        service: what is served.
        server: whose requests they are.
        loop: where they are served.
    """

    def __init__(
        self, service: Service, server: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        service.open()
        self.service = service
        self.answer = service.dispatcher.answer
        self.take = service.dispatcher.take
        self.server = server
        self.loop = loop
        self.thread = threading.get_ident()
        self.most_tasks = 1
        """Messages of one connection that coroutines answer at a time."""
        protocol = service.protocol
        # With states, what is allowed next depends on the answer before.
        if protocol.correlate is not None and protocol.states is None:
            self.most_tasks = service.limits.requests or sys.maxsize
        self.pump = service.dispatcher.stream_pump()
        """Answers what is read in passing, where there is such a function."""
        self.connections: set[LoopConnection] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._in_flight: Counter[Session] = Counter()
        """By datagram peer, what coroutines answer."""
        limits = service.limits
        waits = [limits.first_frame, limits.frame, limits.idle, limits.write, _SWEEP]
        self._pause = max(0.01, min(w for w in waits if w is not None) / 4)
        self._sweeper = loop.call_later(self._pause, self._sweep)

    def connection(self, request: socket.socket, client_address: Any) -> LoopConnection:
        """
        Make the asyncio protocol for a new stream connection.
        """
        return LoopConnection(self, request, client_address)

    def datagram(self, data: bytes, client_address: Any) -> None:
        """
        Handle a datagram, without waiting.
        """
        with self.service.account.handling():
            self._handle(data, client_address)

    def _handle(self, data: bytes, client_address: Any) -> None:
        service = self.service
        conversation = service.conversation(
            self.server, self.server.socket, client_address
        )
        session = conversation.session
        if session.closed:
            service.forget(self.server, client_address, conversation)
            self._handle(data, client_address)
            return
        outcome: Outcome = True
        if not conversation.begun:
            conversation.begun = True
            outcome = service.dispatcher.connected(session)
        if isinstance(outcome, bool):
            if outcome and self._take(conversation, data):
                return
            service.forget(self.server, client_address, conversation)
            return
        self.start(self._begin(outcome, conversation, data, client_address))

    async def _begin(
        self, outcome: Outcome, conversation: Any, data: bytes, address: Any
    ) -> None:
        if not await complete_async(outcome) or not self._take(conversation, data):
            self.service.forget(self.server, address, conversation)

    def _take(self, conversation: Any, data: bytes) -> bool:
        session = conversation.session
        most = self.service.limits.requests
        if most is not None and self._in_flight[session] >= most:
            self.service.refuse(session)
            return True
        session.receive_data(data)
        answer = self.service.dispatcher.answer
        while (outcome := answer(session)) is not True:
            going, awaited = begin(outcome)
            if not going:
                return False
            if awaited is not None:
                self._in_flight[session] += 1
                self.start(self._finish(session, outcome, awaited))
        return session.peer is not None and bool(session.peer.address)

    async def _finish(self, session: Session, outcome: Outcome, awaited: Any) -> None:
        try:
            await complete_async(outcome, awaited)
        finally:
            self._in_flight[session] -= 1
            if not self._in_flight[session]:
                del self._in_flight[session]

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """
        Run something beside everything else, and remember it until it is done.
        """
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def stop(self) -> None:
        """
        Let connections end as soon as they have nothing in flight.
        """
        self.service.draining = True
        # What has arrived by now is read in the loop's next turns.
        self.loop.call_later(0.02, self._stop_idle)

    def _stop_idle(self) -> None:
        for connection in list(self.connections):
            connection.end_when_idle()

    def end(self) -> None:
        """
        End everything now.
        """
        self._sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()
        for task in list(self.tasks):
            task.cancel()

    @property
    def full(self) -> bool:
        """
        Whether so much is under way that datagrams had better wait in the kernel.
        """
        return len(self.tasks) >= _MOST_TASKS

    @property
    def busy(self) -> bool:
        """
        Whether any connection or task is left.
        """
        return bool(self.connections or self.tasks)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.check(now)
        self._sweeper = self.loop.call_later(self._pause, self._sweep)


class LoopConnection(asyncio.Protocol):
    """
    One stream connection on an event loop.
    """

    __slots__ = (
        "_ended",
        "_ending",
        "_over",
        "_resumed",
        "_stuck_since",
        "_tasks",
        "_waiting",
        "address",
        "deadlines",
        "session",
        "side",
        "sock",
        "transport",
    )

    def __init__(
        self, side: ServiceLoopSide, sock: socket.socket, address: Any
    ) -> None:
        self.side = side
        self.sock = sock
        self.address = address
        transport = "tcp" if isinstance(address, tuple) else "unix"
        peer = Peer(transport, address)
        self.session = side.service.session(peer, sock=sock)
        self.session.flush = self.flush
        self.session.closer = self.close
        self.session.flow = self._flow
        self.deadlines = Deadlines(time.monotonic())
        self.transport: Any = None
        self._ended = self._ending = False
        self._over = False
        """Whether nothing more is answered; what is under way is finished."""
        self._tasks = 0
        self._stuck_since: float | None = None
        self._waiting = 0
        """Bytes that waited to be sent when the last look was taken."""
        self._resumed: asyncio.Event | None = None

    # What asyncio calls ----------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """
        Begin the conversation, if the limits allow it.
        """
        self.transport = transport
        most = self.side.service.limits.write_buffer or _LARGEST_MARK
        transport.set_write_buffer_limits(high=min(most, _LARGEST_MARK))
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.session.peer = Peer.over_tls(tls, self.address)
        if not self.side.service.admit(self):
            self.session.closed = True
            transport.abort()  # first, as what is watched has to be open
            self.side.server.close_request(self.sock)
            return
        self.side.connections.add(self)
        self._carry_on(self.side.service.dispatcher.connected(self.session))

    def data_received(self, data: bytes) -> None:
        """
        Take what one read delivered, and answer it.
        """
        if self._ending or self._over:
            return
        session, side = self.session, self.side
        if self._tasks or self._resumed is not None:
            session.receive_data(data)
            self._run()
            return
        session.held = True
        pump = side.pump if session.spent else None
        if pump is None:
            self._run(side.take(session, data))
            return
        outcome = session.pass_through(data, pump)
        if outcome is not True or not session.spent or session.closed:
            self._run(None if outcome is True else outcome)
            return
        # All of it is answered, as it mostly is.
        session.held = False
        self.deadlines.after_read(session.received, 0, time.monotonic())
        if session.outgoing:
            self._write()
        if side.service.draining:
            self.end_when_idle()

    def eof_received(self) -> bool:
        """
        Take note that the peer sends nothing more; answers may still be sent.
        """
        if self._ending:
            return False
        self._ended = True
        if self.session.spent and not self._tasks and self._resumed is None:
            self._over = True
            self._end()
            return True
        self.session.receive_eof()
        self._run()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """
        Forget the connection.
        """
        service, session = self.side.service, self.session
        session.closed = True
        if self._resumed is not None:
            self._resumed.set()
        if self not in self.side.connections:
            return
        self.side.connections.discard(self)
        self.side.server.close_request(self.sock)
        outcome = service.dispatcher.disconnected(session)
        if not isinstance(outcome, bool):
            self.side.start(complete_async(outcome))
        service.dismiss(self)

    def pause_writing(self) -> None:
        """
        Stop reading while the peer does not take what was sent.
        """
        self._stuck_since = time.monotonic()
        self._waiting = self.transport.get_write_buffer_size()
        self._resumed = asyncio.Event()
        with contextlib.suppress(RuntimeError):
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """
        Read again.
        """
        self._stuck_since = None
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None
        self._resume_reading()
        self._run()

    # The conversation ------------------------------------------------------

    def _run(self, outcome: Outcome | None = None) -> None:
        """
        Answer all frames that have arrived, and send the answers together.

        Args:
            outcome: what came of answering so far.
        """
        session, side = self.session, self.side
        going = not self._over
        session.held = True
        while going and self._resumed is None and self._tasks < self.side.most_tasks:
            if outcome is None:
                outcome = side.answer(session)
            if outcome is True:
                break
            going = outcome is not False and self._await(outcome)
            outcome = None
        session.held = False
        buffered = 0 if session.spent else session.buffered
        self.deadlines.after_read(session.received, buffered, time.monotonic())
        if session.outgoing:
            self._write()
        if session.closed or not going:
            self._over = True
            if not self._tasks:
                self._end()
        elif side.service.draining and not self._tasks:
            self.end_when_idle()

    def _carry_on(self, outcome: Outcome) -> None:
        if not self._await(outcome):
            self.flush()
            self._end()

    def _await(self, outcome: Outcome) -> bool:
        """
        Find out how it goes on; a task does so if that takes time.
        """
        going, awaited = begin(outcome)
        if awaited is None:
            return going
        self._tasks += 1
        if self._tasks >= self.side.most_tasks:
            with contextlib.suppress(RuntimeError):
                self.transport.pause_reading()
        self.side.start(self._finish(outcome, awaited))
        return True

    async def _finish(self, outcome: Outcome, awaited: Any) -> None:
        going = False
        try:
            going = await complete_async(outcome, awaited)
        finally:
            self._tasks -= 1
            self._over = self._over or not going
            if self.session.closed or self._over:
                if not self._tasks:
                    self.flush()
                    self._end()
            else:
                self._resume_reading()
                self._run()

    def _resume_reading(self) -> None:
        """
        Read again, unless there is another reason not to.
        """
        if self._resumed is not None or self._tasks >= self.side.most_tasks:
            return
        if not self._ending and not self.transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self.transport.resume_reading()

    def _flow(self) -> Any:
        resumed = self._resumed
        return None if resumed is None else resumed.wait()

    # Sending ---------------------------------------------------------------

    def flush(self) -> None:
        """
        Send what the session has to send, from whichever thread.

        Another thread than the loop's waits if much is waiting already.

        Raises:
            PeerTimeoutError: the peer did not take it within the write limit.
        """
        if threading.get_ident() == self.side.thread:
            if self.session.outgoing:
                self._write()
            return
        loop = self.side.loop
        if self._resumed is None and len(self.session.outgoing) < MOST_HELD:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.flush)
            return
        room = self._room()
        try:
            waiting = asyncio.run_coroutine_threadsafe(room, loop)
        except RuntimeError:
            room.close()
        else:
            self._await_room(waiting)

    async def _room(self) -> None:
        self.flush()
        if self._resumed is not None:
            await self._resumed.wait()

    def _await_room(self, room: concurrent.futures.Future[None]) -> None:
        limit = self.side.service.limits.write
        try:
            room.result(limit)
        except (TimeoutError, concurrent.futures.CancelledError):
            room.cancel()
            raise PeerTimeoutError(
                f"it did not take what was sent within {limit} s"
            ) from None

    def _write(self) -> None:
        # Other threads may add to it meanwhile; nobody else takes.
        out = self.session.outgoing
        count = len(out)
        if count == 1:
            self.transport.write(out.popleft())
        else:
            self.transport.write(b"".join(map(_take_first, repeat(out, count))))

    # Ending ----------------------------------------------------------------

    def check(self, now: float) -> None:
        """
        End the connection if one of its deadlines has passed.
        """
        service = self.side.service
        limits = service.limits
        if self._ending and self._resumed is None:
            # What is left at the end may be too little for a pause.
            waits = self.transport.get_write_buffer_size() > 0
            self._stuck_since = (self._stuck_since or now) if waits else None
        if self._stuck_since is not None:
            if self._took_some():
                self._stuck_since = now
            if limits.write is not None and now - self._stuck_since > limits.write:
                reason = f"it did not take what was sent within {limits.write} s"
                service.count("write", self.session.peer, reason)
                self.abort()
            elif self._is_flooded(limits.write_buffer):
                reason = f"{self._waiting} bytes wait to be sent to it"
                service.count("write_buffer", self.session.peer, reason)
                self.abort()
            return
        if self._tasks or self._ending:
            return
        name, start, limit = self.deadlines.next(limits)
        if limit is not None and now >= start + limit:
            service.count(name, self.session.peer, f"exceeded {limit} s")
            self._end()

    def _took_some(self) -> bool:
        """
        Say whether the peer has taken a good part since the last look.
        """
        return bool(self.transport.get_write_buffer_size() <= self._waiting - GOOD_PART)

    def _is_flooded(self, mark: int | None) -> bool:
        """
        Say whether ever more is pushed to a peer that does not take it.

        What pushes on this loop cannot be made to wait, other than routes and threads.
        """
        before, self._waiting = self._waiting, self.transport.get_write_buffer_size()
        if mark is None or self._tasks:
            return False
        return bool(before < self._waiting > MOST_PUSHED * mark)

    def end_when_idle(self) -> None:
        """
        End the connection unless something is in flight, or has arrived unread.
        """
        if not self._tasks and not self._unread():
            self.flush()
            self._end()

    def _unread(self) -> bool:
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing has, or the peer is gone
            return False

    def close(self) -> None:
        """
        End the connection after what was sent, from whichever thread.
        """
        if threading.get_ident() == self.side.thread:
            if not self.session.held and not self._tasks:
                self.flush()
                self._end()
        else:
            with contextlib.suppress(RuntimeError):
                self.side.loop.call_soon_threadsafe(self.close)

    def abort(self) -> None:
        """
        End the connection now, whatever waits to be sent.
        """
        self.session.closed = True
        self._ending = True
        self.transport.abort()

    def _end(self) -> None:
        """
        Say good-bye, and give the peer a moment to do so too.
        """
        if self._ending:
            return
        self._ending = True
        self.session.closed = True
        transport = self.transport
        if self._ended or not transport.can_write_eof():
            transport.close()
            return
        self._resume_reading()
        with contextlib.suppress(OSError, RuntimeError):
            transport.resume_reading()
        with contextlib.suppress(OSError):
            transport.write_eof()
        self.side.loop.call_later(GOODBYE, transport.close)
