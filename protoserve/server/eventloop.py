"""
One thread for all connections: an event loop in place of the classic one.

The steps stay the classic ones. The loop watches the server's descriptor, takes
requests with `get_request` and `verify_request`, and hands them to
`process_request`, which here gives them to the loop: a stream gets an asyncio
protocol (whose socket is watched by ourselves, see `_direct`), datagrams are received by a loop of our own (asyncio's own datagram
transport allocates 256 KiB for each read).

A blocking handler would stop everyone, so only handler classes that know event
loops are taken: those have a class method ``loop_side``, see `LoopSide`. uvloop is
used where it is installed.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from protoserve.server._combining import check_place
from protoserve.server._reporting import tell_failure

if TYPE_CHECKING:
    import asyncio

    from protoserve.server._direct import DirectSockets
    from protoserve.server.base import BaseServer as _Base
else:
    _Base = object

__all__ = ["EventLoopMixIn", "LoopSide", "serve_together"]

_BACKLOG = 1024
"""Requests that are still taken from the queue once the server is to stop."""
_BURST = 256
"""Datagrams handled before the loop looks at other descriptors again."""
_LOOK_AGAIN = 0.01
"""Seconds without receiving when the side is full."""
_LAST_WORDS = 1.0
"""Seconds in which tasks that are cancelled have to end."""


class LoopSide(Protocol):
    """
    What a handler class gives to a server that has an event loop.
    """

    def connection(self, request: socket.socket, client_address: Any) -> Any:
        """
        Make the asyncio protocol for a new stream connection.

        One that has ``data_received`` is called by a transport of ours, a
        `asyncio.BufferedProtocol` by the loop's own.
        """

    def datagram(self, data: bytes, client_address: Any) -> None:
        """
        Handle a datagram, without waiting.
        """

    def stop(self) -> None:
        """
        Let connections end as soon as they have nothing in flight.
        """

    def end(self) -> None:
        """
        End everything that is left.
        """

    @property
    def full(self) -> bool:
        """
        Whether so much is under way that datagrams had better wait in the kernel.
        """

    @property
    def busy(self) -> bool:
        """
        Whether any connection or task is left.
        """


def new_event_loop() -> asyncio.AbstractEventLoop:
    """
    Make the fastest event loop there is.
    """
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def serve_together(
    servers: Sequence[EventLoopMixIn], poll_interval: float | None = 0.5
) -> None:
    """
    Run servers on one event loop in this thread, until each has been shut down.

    Args:
        servers: which ones; the first makes the loop.
        poll_interval: as in `BaseServer.serve_forever`.
    """
    import asyncio

    loop = servers[0].make_loop()

    async def serve_all() -> None:
        await asyncio.gather(*(each._serve_on(loop, poll_interval) for each in servers))

    try:
        asyncio.set_event_loop(loop)
        for server in servers:
            server.loop = loop
        loop.run_until_complete(serve_all())
    finally:
        for server in servers:
            server.loop = None
        asyncio.set_event_loop(None)
        with contextlib.suppress(Exception):
            _end_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """
    Cancel the tasks that are left, and let them put away what they have.
    """
    import asyncio

    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        if not task.cancelling():  # who was told before may be tidying up
            task.cancel()
    if tasks:
        done, _ = loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_WORDS))
        for task in done:
            if not task.cancelled():
                task.exception()  # has been looked at; nobody is left to be told


def _direct_sockets(loop: asyncio.AbstractEventLoop) -> DirectSockets | None:
    """
    Watch sockets directly, where that can be done.
    """
    if not hasattr(select, "epoll"):
        return None
    from protoserve.server._direct import DirectSockets

    return DirectSockets(loop)


class EventLoopMixIn(_Base):
    """
    Handles all requests on an event loop, in the thread that serves.

    For the caller:

    - `loop`, while it serves

    May be overridden, as class variables:

    - `drain_timeout`

    May be overridden:

    - `make_loop`, to choose another event loop

    Goes before the server class: ``class S(EventLoopMixIn, TCPServer)``; not together
    with a mix-in that handles requests elsewhere. The handler class must have a
    ``loop_side``; that of a `protoserve.Service` does.
    """

    loop: asyncio.AbstractEventLoop | None = None
    """The event loop, while `serve_forever` runs."""

    drain_timeout: float = 10.0
    """Seconds that connections may take to end after `shutdown`."""

    _side: LoopSide | None = None
    _direct: DirectSockets | None = None
    _wake_event: asyncio.Event | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_place(cls, "EventLoopMixIn")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self.RequestHandlerClass, "loop_side"):
            self.server_close()
            name = getattr(self.RequestHandlerClass, "__name__", "this handler")
            raise TypeError(
                f"{name} handles a request by blocking, which would stop an event "
                "loop; serve it with ThreadingMixIn, or write its "
                "messages as routes of a protoserve.Service"
            )

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """
        Make the event loop to serve on.
        """
        return new_event_loop()

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Give a request to the event loop.
        """
        assert self._side is not None
        if isinstance(request, tuple):
            self._side.datagram(request[0], client_address)
            self.close_request(request)
            return
        assert self.loop is not None
        protocol = self._loop_protocol(request, client_address)
        if self._direct is not None and hasattr(protocol, "data_received"):
            self._direct.connect(request, protocol)
            return
        connecting = self._connect(request, client_address, protocol)
        task = self.loop.create_task(connecting)
        self._loop_connecting.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._loop_connecting.discard)

    async def _connect(
        self, request: socket.socket, client_address: Any, protocol: Any
    ) -> None:
        assert self.loop is not None
        request.setblocking(False)
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, request)
        except Exception as error:
            tell_failure(self, request, client_address, error)
            self.shutdown_request(request)

    def _loop_protocol(self, request: socket.socket, client_address: Any) -> Any:
        """
        Make the asyncio protocol for a new stream connection.
        """
        assert self._side is not None
        return self._side.connection(request, client_address)

    def _loop_run(self, poll_interval: float | None) -> None:
        serve_together([self], poll_interval)

    async def _serve_on(
        self, loop: asyncio.AbstractEventLoop, poll_interval: float | None
    ) -> None:
        import asyncio

        self._loop_connecting: set[asyncio.Task[None]] = set()
        self._side = self.RequestHandlerClass.loop_side(self, loop)  # type: ignore[attr-defined] # checked in __init__
        self._direct = _direct_sockets(loop)
        listener = self.socket  # type: ignore[attr-defined] # servers of sockets have one
        internet = listener.family in {socket.AF_INET, socket.AF_INET6}
        if internet and listener.type == socket.SOCK_STREAM:
            # Where we watch the connections ourselves, they inherit it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        event = self._wake_event = asyncio.Event()
        descriptor = self.fileno()
        listener.setblocking(False)
        loop.add_reader(descriptor, self._take_burst)
        try:
            try:
                while not self._loop_stopping():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(event.wait(), poll_interval)
                    event.clear()
                    self.service_actions()
            finally:
                loop.remove_reader(descriptor)
            await self._drain()
        finally:
            if self._direct is not None:
                self._direct.close()

    async def _drain(self) -> None:
        import asyncio

        assert self._side is not None
        deadline = time.monotonic() + self.drain_timeout
        self._loop_take_rest()
        if self._loop_connecting:
            await asyncio.wait(self._loop_connecting, timeout=self.drain_timeout)
        for task in self._loop_connecting:
            task.cancel()
        self._side.stop()
        while self._side.busy and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._side.end()
        await asyncio.sleep(0)

    def _take_burst(self) -> None:
        """
        Take the requests that wait, but not so many that others have to wait.
        """
        if self._loop_accept_delay():
            return
        for _ in range(_BURST):
            if self._loop_stopping():
                return
            if self._is_full():
                self._pause_accepting(_LOOK_AGAIN)
                return
            try:
                request, client_address = self.get_request()
            except BlockingIOError:
                return
            except OSError as error:
                self._loop_accept_failed(error)
                self._pause_accepting(self._loop_accept_delay())
                return
            self._loop_handle_taken(request, client_address)

    def _is_full(self) -> bool:
        """
        Say whether datagrams are not to be taken for now.
        """
        side, sock = self._side, self.socket  # type: ignore[attr-defined] # as above
        return side is not None and side.full and sock.type == socket.SOCK_DGRAM

    def _loop_take_rest(self) -> None:
        """
        Take what had arrived when the server was asked to stop.
        """
        for _ in range(_BACKLOG):
            try:
                request, client_address = self.get_request()
            except (OSError, ValueError):  # there is no more, or it is closed
                return
            self._loop_handle_taken(request, client_address)

    def _pause_accepting(self, delay: float) -> None:
        if not delay or self.loop is None:
            return
        loop, descriptor = self.loop, self.fileno()
        loop.remove_reader(descriptor)

        def again() -> None:
            if not self._loop_stopping():
                loop.add_reader(descriptor, self._take_burst)

        loop.call_later(delay, again)

    def _loop_wake(self) -> None:
        super()._loop_wake()
        loop, event = self.loop, self._wake_event
        if loop is not None and event is not None:
            with contextlib.suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(event.set)
