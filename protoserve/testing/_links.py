"""
The server's end of a conversation in memory.

A `Link` does what a connection does on an event loop in production
(`protoserve.loops`), with a queue in place of a socket: it answers what has come, waits
for coroutines, heeds how much the client has not taken yet, and keeps the limits. All
of it happens in the thread of the test, but what coroutines and threads send.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from protoserve.datagrams import Conversation
from protoserve.deadlines import Deadlines
from protoserve.dispatch import Outcome, complete_async
from protoserve.session import Peer, Session
from protoserve.testing._clock import Clock

if TYPE_CHECKING:
    from protoserve.testing._bench import Bench

__all__ = ["DatagramLink", "Link", "StreamLink"]

_MOST_DATAGRAMS = 100_000
"""Datagrams that wait for a client, before the route that sends them is stopped."""


class _Room:
    """
    What is awaited until the client has taken what was sent to it.

    Args:
        is_full: says whether that has to be waited for.
    """

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self._is_full = is_full
        self._waiting: list[Callable[[], object]] = []

    def __await__(self) -> Generator[Any, None, None]:
        import asyncio

        loop = asyncio.get_running_loop()
        made: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not made.done():
                made.set_result(None)

        self._waiting.append(functools.partial(loop.call_soon_threadsafe, wake))
        if not self._is_full():  # the client was faster
            wake()
        yield from made

    def make(self) -> None:
        """
        Let those who wait go on.
        """
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                wake()


class Link:
    """
    The server's end of a conversation; the client takes from `outbox`.
    """

    def __init__(self, bench: Bench, peer: Peer) -> None:
        self.bench = bench
        self.peer = peer
        self.outbox: deque[bytes] = deque()
        """What the server has sent, and the client not taken yet."""
        self.ended = False
        """Whether the server will send nothing more."""
        bench.links.append(self)

    def feed(self, data: bytes) -> None:
        """
        Take bytes of the stream, or one datagram.
        """
        raise NotImplementedError

    def attend(self) -> None:
        """
        Go on with what has waited for something.
        """

    def taken(self) -> None:
        """
        Be told that the client has taken all that was sent.
        """

    def leave(self) -> None:
        """
        Be told that the client is done.
        """
        self.abort()

    def abort(self) -> None:
        """
        End now, whatever is in flight.
        """
        self.ended = True
        with contextlib.suppress(ValueError):
            self.bench.links.remove(self)

    def _put(self, data: bytes) -> None:
        self.outbox.append(data)
        self.bench.stir()


class StreamLink(Link):
    """
    One stream connection, as `protoserve.loops.LoopConnection` is one.
    """

    def __init__(self, bench: Bench, peer: Peer) -> None:
        super().__init__(bench, peer)
        self.address = peer.address
        self.sock: Any = self  # what is asked of it is to be shut down
        self.session = bench.app.session(peer)
        self.session.flush = self._flush
        self.session.closer = bench.stir
        self.session.flow = self._flow
        self._now: Callable[[], float] = time.monotonic
        if bench.clock is not None:
            self.session._clock = self._now = bench.clock
        self._deadlines = Deadlines(self._now())
        app = bench.app
        self._most_tasks = 1
        if app.protocol.correlate is not None:
            self._most_tasks = app.limits.requests or sys.maxsize
        self._most_unread = app.limits.write_buffer or sys.maxsize
        self._tasks = 0
        self._beginning = False
        self._running = False
        self._over = self._gone = False
        self._unread = 0
        """Bytes that the client has not taken yet."""
        self._counting = threading.Lock()
        self._suspended: Generator[Any, Any, bool] | None = None
        """Steps that wait until the client has taken what was sent."""
        self._room = _Room(self._is_full)

    def begin(self) -> None:
        """
        Tell the handler of the client, if the limits allow one more.
        """
        if not self.bench.app.admit(self):
            self.session.closed = True
            self.abort()
            return
        self._beginning = True
        if not self._follow(self.bench.app.dispatcher.connected(self.session)):
            self._over = True
        self._beginning = bool(self._tasks)
        self._run()

    def feed(self, data: bytes) -> None:
        if self._over or self.ended:
            return
        if self._tasks or self._suspended is not None or self._running:
            self.session.receive_data(data)
            self._run()
        else:
            self._run(functools.partial(self.bench.app.dispatcher.take, data=data))

    def end(self) -> None:
        """
        Take note that the client will send nothing more.
        """
        self.session.receive_eof()
        self._run()

    def attend(self) -> None:
        if self._suspended is not None and self._flow() is None:
            self._run()
        if isinstance(self.bench.clock, Clock) and not self._tasks and not self._over:
            app = self.bench.app
            name, start, limit = self._deadlines.next(app.limits)
            if limit is not None and self._now() >= start + limit:
                app.count(name, self.peer, f"exceeded {limit} s")
                self._over = True
        if self.session.closed or self._over or self.bench.app.draining:
            self._run()

    def taken(self) -> None:
        with self._counting:
            self._unread = 0
        self._room.make()
        if self._suspended is not None:
            self._run()

    def leave(self) -> None:
        if self.ended:
            return
        self._gone = True
        if self._suspended is not None:
            self.session.closed = True
        self._room.make()
        self.end()

    def shutdown(self, _how: int) -> None:
        """
        Be ended by `Service.abandon`, as a socket is.
        """
        self._over = True
        self.bench.stir()

    def abort(self) -> None:
        if self.ended:
            return
        super().abort()
        self.session.closed = True
        self._over = True
        steps, self._suspended = self._suspended, None
        if steps is not None:
            steps.close()
        app = self.bench.app
        if self in app._connections:
            app.dismiss(self)
            _follow(self.bench, app.dispatcher.disconnected(self.session))
        self.bench.stir()

    def _run(self, first: Callable[[Session], Outcome] | None = None) -> None:
        """
        Answer what has arrived, as far as that is possible now.

        Args:
            first: what to begin with.
        """
        if self._running or self._beginning:
            return
        self._running = True
        going = not self._over
        try:
            while going and self._tasks < self._most_tasks:
                if self._suspended is not None:
                    if self._flow() is not None and not self.session.closed:
                        break
                    steps, self._suspended = self._suspended, None
                    going = self._follow(steps)
                    continue
                answer = first or self.bench.app.dispatcher.answer
                first = None
                outcome = answer(self.session)
                if outcome is True:
                    break
                going = self._follow(outcome)
        except BaseException:
            # What no handler may raise: the test fails, or was interrupted.
            self._running = False
            self.abort()
            raise
        self._running = False
        session = self.session
        buffered = 0 if session.spent else session.buffered
        self._deadlines.after_read(session.received, buffered, self._now())
        draining = self.bench.app.draining and self._suspended is None
        if session.closed or not going:
            self._over = True
        if (self._over or draining) and not self._tasks:
            self.abort()

    def _follow(self, outcome: Outcome) -> bool:
        """
        Go on with an outcome's steps; say whether the conversation may.
        """
        if isinstance(outcome, bool):
            return outcome
        try:
            awaited = outcome.send(None)
        except StopIteration as stop:
            return bool(stop.value)
        if awaited is self._room:
            self._suspended = outcome
        else:
            self._tasks += 1
            self.bench.start(complete_async(outcome, awaited), self._finished)
        return True

    def _finished(self, going: bool) -> None:
        self._tasks -= 1
        self._beginning = False
        self._over = self._over or not going
        self._run()

    def _flush(self) -> None:
        waiting = self.session.data_to_send()
        if self._gone:
            self.session.closed = True
            raise ConnectionResetError("the client has closed")
        for data in waiting:
            with self._counting:
                self._unread += len(data)
            self._put(data)

    def _is_full(self) -> bool:
        return not self._gone and self._unread > self._most_unread

    def _flow(self) -> Any:
        return self._room if self._is_full() else None


class DatagramLink(Link):
    """
    One peer that sends datagrams; its conversation is in the service's own table.
    """

    def __init__(self, bench: Bench, peer: Peer) -> None:
        super().__init__(bench, peer)
        unix = peer.transport.startswith("unix")
        self.family = socket.AF_UNIX if unix else socket.AF_INET
        self._arrived: deque[bytes] = deque()
        self._beginning = False
        bench.by_address[peer.address] = self

    def feed(self, data: bytes) -> None:
        self._arrived.append(data)
        self.attend()

    def attend(self) -> None:
        while self._arrived and not self._beginning:
            self._take()

    def sendto(self, data: bytes, _flags: int, address: Any) -> None:
        """
        Be what the service's table takes for a socket.
        """
        # The conversation may have begun with an earlier client of that address.
        link = self.bench.by_address.get(address)
        if link is None:
            return
        if len(link.outbox) >= _MOST_DATAGRAMS:
            raise RuntimeError(
                f"{_MOST_DATAGRAMS} datagrams wait for the client, and a route goes on "
                "sending"
            )
        link._put(data)

    def getsockname(self) -> Any:
        """
        Be what a journal takes for a socket.
        """
        return "" if self.family == socket.AF_UNIX else ("127.0.0.1", 0)

    def abort(self) -> None:
        super().abort()
        if self.bench.by_address.get(self.peer.address) is self:
            del self.bench.by_address[self.peer.address]

    def _take(self) -> None:
        """
        Handle the next datagram.
        """
        bench, app = self.bench, self.bench.app
        found: Any = self
        conversation = app.conversation(bench, found, self.peer.address)
        if bench.clock is not None:
            conversation.session._clock = bench.clock
        session = conversation.session
        if session.closed:
            app.forget(bench, self.peer.address, conversation)
            return
        session.peer = self.peer
        if not conversation.begun:
            conversation.begun = True
            self._beginning = True
            outcome = app.dispatcher.connected(session)
            _follow(bench, outcome, functools.partial(self._begun, conversation))
            return
        session.receive_data(self._arrived.popleft())
        while (outcome := app.dispatcher.answer(session)) is not True:
            if not _follow(bench, outcome):
                self._forget(conversation)
                return

    def _begun(self, conversation: Conversation, going: bool) -> None:
        self._beginning = False
        if not going:
            self._arrived.popleft()
            self._forget(conversation)
        self.attend()

    def _forget(self, conversation: Conversation) -> None:
        self.bench.app.forget(self.bench, self.peer.address, conversation)


def _follow(
    bench: Bench, outcome: Outcome, then: Callable[[bool], object] | None = None
) -> bool:
    """
    Go through an outcome's steps, beside everything else if they take time.
    """
    going: bool | None = None
    if isinstance(outcome, bool):
        going = outcome
    else:
        try:
            awaited: Awaitable[Any] = outcome.send(None)
        except StopIteration as stop:
            going = bool(stop.value)
        else:
            bench.start(complete_async(outcome, awaited), then)
    if going is not None and then is not None:
        then(going)
    return going is not False
