"""
A bounded number of threads for any number of connections.

What comes is queued, and threads take it from there. There are never more than
`PoolMixIn.threads` of them; they are started when there is something to do. When the
queue is full, a named policy says what happens to newcomers.

A handler of the classic kind has its thread until it is done. A handler class that
knows how to go on in steps, see `Parkable`, needs one only for as long as there is
something to do: between two requests its connection is *parked*, and the loop that
waits for new requests waits for it too. The kernel tells which of them are ready in
time that does not depend on their number (epoll); elsewhere they are polled.

Traps that are avoided here:

- A parked connection is watched for one event only. It belongs to one thread at a
  time, and nobody has to take it off a list that another thread looks at.
- What is ready again was admitted before, so it is never refused; the queue is bounded
  for newcomers only.
- Descriptors are opened when the loop begins, so that processes forked before have
  their own.
"""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import select
import threading
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from protoserve.server._combining import check_place
from protoserve.server._reporting import logger, tell_failure
from protoserve.server._waiting import Waiter

if TYPE_CHECKING:
    from protoserve.server.base import BaseServer as _Base
else:
    _Base = object

__all__ = ["FULL_POLICIES", "Parkable", "PoolMixIn"]

FULL_POLICIES = ("wait", "refuse")
"""What can happen to newcomers when the queue is full."""

_SWEEP = 0.25
"""Seconds between two looks at the deadlines of parked connections, at most."""
_LINGER = 2
"""
Milliseconds that an idle thread stays with its connection before it parks it: to park
costs more than most peers take to go on.
"""
_LEAVE_AFTER = 1.0
"""
Seconds without any request after which a thread ends. A program that closes only the
socket, as many do, would wait for it for ever.
"""
_LOOK_AGAIN = 0.05
"""Seconds of one wait while the server drains."""


class Parkable(Protocol):
    """
    A connection that a handler class serves in steps.

    The class has a class method ``parkable(server, request, client_address)`` that
    makes one.
    """

    awaits: int
    """What it waits for, as `select.poll` knows it."""

    deadline: float | None
    """When it is to go on even so, in seconds of `time.monotonic`."""

    ending: bool
    """Set to make it end when nothing is in flight."""

    def fileno(self) -> int:
        """
        Give the descriptor to wait for.
        """

    def advance(self) -> bool:
        """
        Go on without waiting for the peer; say whether there is more to come.
        """

    def end(self) -> None:
        """
        End now, whatever is in flight; the next step will notice.
        """


class _Entry:
    """
    A request, with how it goes on if it can be parked.
    """

    __slots__ = ("address", "parkable", "request", "watched")

    def __init__(self, request: Any, address: Any) -> None:
        self.request = request
        self.address = address
        self.parkable: Parkable | None = None
        self.watched = False


class _CarPark:
    """
    The connections that wait for their peers.
    """

    def __init__(self) -> None:
        self._parked: dict[int, _Entry] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._sweep_at = 0.0
        self._closed = False

    @property
    def is_told(self) -> bool:
        """
        Whether a loop that waits learns of a newcomer by itself.
        """
        return self._epoll is not None

    def descriptors(self) -> Collection[int]:
        """
        Give what is readable when some connection is ready.
        """
        if self._epoll is not None:
            return (self._epoll.fileno(),)
        return tuple(self._parked)

    def park(self, entry: _Entry) -> bool:
        """
        Wait for what a connection needs next; say whether that is possible still.
        """
        assert entry.parkable is not None
        descriptor, awaits = entry.parkable.fileno(), entry.parkable.awaits
        self._parked[descriptor] = entry
        # From here on another thread may have it.
        if self._epoll is not None and not self._closed:
            with contextlib.suppress(ValueError):  # it is closed just now
                if entry.watched:
                    self._epoll.modify(descriptor, awaits | select.EPOLLONESHOT)
                else:
                    entry.watched = True
                    self._epoll.register(descriptor, awaits | select.EPOLLONESHOT)
        if not self._closed:
            return True
        # Unless somebody else has it already.
        return self._parked.pop(descriptor, None) is None

    def ready(self) -> list[_Entry]:
        """
        Take out those that can go on, or whose time has come.
        """
        if self._epoll is not None:
            descriptors = [fd for fd, _ in self._epoll.poll(0)]
        else:
            poller = select.poll()
            for fd, entry in list(self._parked.items()):
                assert entry.parkable is not None
                poller.register(fd, entry.parkable.awaits)
            descriptors = [fd for fd, _ in poller.poll(0)]
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP
            for fd, entry in list(self._parked.items()):
                assert entry.parkable is not None
                deadline = entry.parkable.deadline
                if deadline is not None and deadline <= now:
                    descriptors.append(fd)
        return self._take(descriptors)

    def idle(self) -> list[_Entry]:
        """
        Take out those that do not know yet that they are to end.
        """
        return self._take(
            fd
            for fd, entry in list(self._parked.items())
            if entry.parkable is not None and not entry.parkable.ending
        )

    def all(self) -> list[_Entry]:
        """
        Take out all.
        """
        return self._take(list(self._parked))

    def _take(self, descriptors: Iterable[int]) -> list[_Entry]:
        found = [self._parked.pop(fd, None) for fd in descriptors]
        return [entry for entry in found if entry is not None]

    def close(self) -> None:
        """
        Give the descriptor back; nobody is waited for any more.
        """
        self._closed = True
        if self._epoll is not None:
            self._epoll.close()


def _soon(parkable: Parkable) -> bool:
    """
    Wait a moment for what a connection needs; say whether that came.
    """
    poller = select.poll()
    poller.register(parkable, parkable.awaits)
    return bool(poller.poll(_LINGER))


class PoolMixIn(_Base):
    """
    Handles requests in a bounded number of threads.

    For the caller:

    - `refused_requests`

    May be overridden, as class variables:

    - `threads`, `queue_size`, `when_full`, `drain_timeout`
    - `daemon_threads`, `block_on_close`

    Goes before the server class: ``class S(PoolMixIn, TCPServer)``; not together with
    another mix-in that says where requests are handled. Datagrams are handled in any
    order. Connections are parked while `serve_forever` runs; under `handle_request`,
    and where `finish_request` is overridden, each has a thread until it is done.
    """

    threads: int = 32
    """How many threads handle requests, at most."""

    queue_size: int | None = 1024
    """
    How many requests may wait for a thread; `None` for any number. A handler class
    that has a ``queue_limit`` says so instead.
    """

    when_full: str = "wait"
    """
    What happens to newcomers when as many wait: ``"wait"`` leaves them in the kernel's
    queue, ``"refuse"`` closes them at once.
    """

    drain_timeout: float = 10.0
    """Seconds that connections may take to end after `shutdown`."""

    daemon_threads: bool = False
    """Whether the program may end while requests are handled."""

    block_on_close: bool = True
    """Whether `server_close` waits for the threads, unless they are daemons."""

    refused_requests: int = 0
    """How many requests found the queue full and were closed."""

    __car_park: _CarPark | None = None
    __loop_thread: threading.Thread | None = None
    __ending = False
    __crowded = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_place(cls, "PoolMixIn")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        for limit in ("threads", "queue_size"):
            value = getattr(self, limit)
            if limit == "queue_size" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}.{limit}: expected 1 or more, not {value!r}")
        if self.when_full not in FULL_POLICIES:
            known = " or ".join(map(repr, FULL_POLICIES))
            raise ValueError(
                f"{name}.when_full: expected {known}, not {self.when_full!r}"
            )
        super().__init__(*args, **kwargs)

    # Not made in __init__: many a subclass calls only the server's.

    @functools.cached_property
    def __queue(self) -> queue.SimpleQueue[_Entry | None]:
        return queue.SimpleQueue()

    @functools.cached_property
    def __threads(self) -> list[threading.Thread]:
        return []

    @functools.cached_property
    def __lock(self) -> Any:
        return threading.Lock()  # for the list of threads

    @functools.cached_property
    def __ended(self) -> threading.Event:
        event = threading.Event()  # clear while a loop runs
        event.set()
        return event

    @functools.cached_property
    def __open(self) -> set[_Entry]:
        return set()

    @functools.cached_property
    def __parks(self) -> bool:
        """
        Whether handlers go on in steps, and nobody has other plans.
        """
        ours = type(self).finish_request.__module__.startswith("protoserve.server")
        return ours and hasattr(self.RequestHandlerClass, "parkable")

    # The loop's side -------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Queue the request for a thread.
        """
        if self.when_full == "refuse" and self.__is_full():
            self.refused_requests += 1
            tell = getattr(self.RequestHandlerClass, "queue_refused", None)
            if tell is not None:
                tell(request, client_address)
            self.shutdown_request(request)
            return
        entry = _Entry(request, client_address)
        self.__open.add(entry)  # from here on no thread leaves
        with self.__lock:
            if len(self.__threads) < self.threads:
                self.__hire(entry)
        self.__queue.put(entry)

    def __hire(self, entry: _Entry) -> None:
        thread = threading.Thread(target=self.__work, daemon=self.daemon_threads)
        try:
            thread.start()
        except RuntimeError:  # the system has no more
            if not self.__threads:
                self.__open.discard(entry)
                raise
        else:
            self.__threads.append(thread)

    def __is_full(self) -> bool:
        limit = getattr(self.RequestHandlerClass, "queue_limit", None)
        most: int | None = self.queue_size if limit is None else limit()
        return most is not None and self.__queue.qsize() >= most

    def _loop_accept_delay(self) -> float:
        if self.when_full == "wait":
            # Set first: a thread that makes room from here on wakes the loop.
            self.__crowded = True
            if self.__is_full():
                return math.inf
            self.__crowded = False
        return super()._loop_accept_delay()

    def _loop_wake_descriptors(self) -> Collection[int]:
        theirs = super()._loop_wake_descriptors()
        if self.__car_park is None:
            return theirs
        return (*theirs, *self.__car_park.descriptors())

    def _loop_housekeep(self) -> None:
        super()._loop_housekeep()
        if self.__car_park is not None:
            for entry in self.__car_park.ready():
                self.__queue.put(entry)

    def _loop_run(self, poll_interval: float | None) -> None:
        self.__car_park = _CarPark()
        self.__loop_thread = threading.current_thread()
        self.__ended.clear()
        self.__ending = False
        # The deadlines of parked connections are looked at in between.
        pause = _SWEEP if poll_interval is None else min(poll_interval, _SWEEP)
        try:
            super()._loop_run(pause)
        finally:
            self.__drain(self.__car_park)
            car_park, self.__car_park = self.__car_park, None
            car_park.close()
            self.__loop_thread = None
            self.__ended.set()

    def __drain(self, car_park: _CarPark) -> None:
        """
        Let the connections end, within `drain_timeout`.
        """
        self.__ending = True
        deadline = time.monotonic() + self.drain_timeout
        waiter = Waiter()
        while any(entry.parkable is not None for entry in tuple(self.__open)):
            over = time.monotonic() >= deadline
            if over:
                for entry in tuple(self.__open):
                    if entry.parkable is not None:
                        entry.parkable.end()
            for entry in car_park.all() if over else car_park.idle():
                assert entry.parkable is not None
                entry.parkable.ending = True
                self.__queue.put(entry)
            if over:
                return
            waiter.wait(car_park.descriptors(), _LOOK_AGAIN)
            for entry in car_park.ready():
                self.__queue.put(entry)

    def server_close(self) -> None:
        """
        Close the server; wait for its threads if `block_on_close` says so.
        """
        super().server_close()
        here = threading.current_thread()
        if here is not self.__loop_thread and here not in self.__threads:
            self.__ended.wait()  # a loop that runs ends now, and drains before
        with self.__lock:
            threads = list(self.__threads)
            self.__threads.clear()
        for _ in threads:
            self.__queue.put(None)
        if self.block_on_close and not self.daemon_threads:
            for thread in threads:
                if thread is not threading.current_thread():
                    thread.join()

    def shutdown(self) -> None:
        """
        Ask the loop to stop, and wait until it has; a thread of the pool only asks.
        """
        if threading.current_thread() in self.__threads:
            threading.Thread(target=super().shutdown, daemon=True).start()
        else:
            super().shutdown()

    # The threads' side -----------------------------------------------------

    def __work(self) -> None:
        while (entry := self.__next()) is not None:
            if self.__crowded:
                self.__crowded = False
                self._loop_wake()
            goes_on = False
            try:
                goes_on = self.__go_on(entry)
            except Exception as error:
                self.__tell(entry, error)
            except BaseException as error:
                # The handler's end, not that of the thread.
                logger.debug("a handler was ended by %r", error)
            if not goes_on:
                self.__finish(entry)

    def __tell(self, entry: _Entry, error: Exception) -> None:
        try:
            tell_failure(self, entry.request, entry.address, error)
        except Exception:
            logger.exception("handle_error failed for %s", entry.address)

    def __finish(self, entry: _Entry) -> None:
        self.__open.discard(entry)
        try:
            self.shutdown_request(entry.request)
        except Exception:
            logger.exception("shutdown_request failed for %s", entry.address)

    def __next(self) -> _Entry | None:
        """
        Wait for something to do; None when the thread is to end.
        """
        while True:
            try:
                return self.__queue.get(timeout=_LEAVE_AFTER)
            except queue.Empty:
                with self.__lock:
                    me = threading.current_thread()
                    if not self.__open and me in self.__threads:
                        self.__threads.remove(me)
                        return None

    def __go_on(self, entry: _Entry) -> bool:
        """
        Handle a request, or a step of it; say whether there is more to come.
        """
        car_park, parkable = self.__car_park, entry.parkable
        if parkable is None:
            if car_park is not None and self.__parks:
                make: Any = self.RequestHandlerClass.parkable  # type: ignore[attr-defined] # looked up above
                parkable = entry.parkable = make(self, entry.request, entry.address)
            if parkable is None:
                self.finish_request(entry.request, entry.address)
                return False
        while True:
            if self.__ending:
                parkable.ending = True
            if not parkable.advance():
                return False
            if self.__queue.qsize() or not _soon(parkable):
                break
        if car_park is None or not car_park.park(entry):
            self.__see_through(parkable)
            return False
        if not car_park.is_told:
            self._loop_wake()
        return True

    def __see_through(self, parkable: Parkable) -> None:
        """
        Let a connection end in this thread, as the loop waits for nobody any more.
        """
        parkable.ending = True
        poller = select.poll()
        while parkable.advance():
            poller.register(parkable, parkable.awaits)
            left = _SWEEP
            if parkable.deadline is not None:
                left = min(left, max(0.0, parkable.deadline - time.monotonic()))
            poller.poll(left * 1000)
