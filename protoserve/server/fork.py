"""
A process for each request.

While `max_children` are at work the loop takes no request, but it goes on:
`shutdown` and `service_actions` work, and clients wait in the kernel's queue.
The end of a child wakes the loop through a descriptor of the child, where the
system has them; elsewhere it is noticed within a tenth of a second when the
number is at its limit, else at the next turn. Each child is waited for by its
own number, since other children of this process are somebody else's.

A child leaves by `os._exit` alone. Nothing that the parent has on its stack,
``finally`` clauses and exit functions, may run twice.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from protoserve.server._reporting import tell_failure
from protoserve.server._waiting import Waiter

if TYPE_CHECKING:
    from protoserve.server.base import BaseServer as _Base
else:
    _Base = object

__all__ = ["ForkingMixIn"]

_LOOK_AGAIN = 0.1
"""Seconds between looks at children that have no descriptor."""


def _nothing() -> None:
    pass


def _flush_standard_streams() -> None:
    # Output that is still in the buffer would be written by both processes.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


class ForkingMixIn(_Base):
    """
    Handles each request in a new process.

    For the caller:

    - `active_children`

    May be overridden, as class variables:

    - `timeout`, `max_children`, `block_on_close`

    Goes before the server class: ``class S(ForkingMixIn, TCPServer)``.
    """

    timeout: float | None = 300
    """Seconds that `handle_request` waits; None waits for ever."""

    max_children: int = 40
    """How many requests are handled at a time; more wait in the queue."""

    block_on_close: bool = True
    """Whether `server_close` waits for the children."""

    active_children: set[int] | None = None
    """The process ids of the children at work; None before the first."""

    __descriptors: dict[int, int] | None = None
    __ended: dict[int, Callable[[], None]] | None = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Start a process for the request.
        """
        self.__await_slot()
        # What a child would find out about limits, nobody would know but itself.
        admit = getattr(self.RequestHandlerClass, "admit_request", None)
        ended = _nothing if admit is None else admit(request, client_address)
        if ended is None:
            self.shutdown_request(request)
            return
        _flush_standard_streams()
        parent = os.getpid()
        status = 1
        pid = -1
        try:
            pid = os.fork()
            if pid == 0:
                status = self.__run_child(request, client_address)
        finally:
            # Also when a signal handler raises in the child before its work.
            if os.getpid() != parent:
                os._exit(status)
            if pid < 0:
                ended()
        self.__remember(pid, ended)
        self.close_request(request)

    def collect_children(self, *, blocking: bool = False) -> None:
        """
        Forget the children that have ended.

        Args:
            blocking: whether to wait until all have.
        """
        for pid in tuple(self.active_children or ()):
            try:
                ended, _ = os.waitpid(pid, 0 if blocking else os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                ended = pid
            if ended:
                self.__forget(pid)

    def handle_timeout(self) -> None:
        """
        Collect the children that have ended while no request came.
        """
        super().handle_timeout()
        self.collect_children()

    def service_actions(self) -> None:
        """
        Collect the children that have ended since the last turn.
        """
        super().service_actions()
        self.collect_children()

    def server_close(self) -> None:
        """
        Close the server; wait for its children if `block_on_close` says so.
        """
        super().server_close()
        self.collect_children(blocking=self.block_on_close)
        while self.__descriptors:
            os.close(self.__descriptors.popitem()[1])

    def __run_child(self, request: Any, client_address: Any) -> int:
        try:
            self.finish_request(request, client_address)
            return 0
        except Exception as error:
            tell_failure(self, request, client_address, error)
            return 1
        finally:
            self.shutdown_request(request)
            ends = getattr(self.RequestHandlerClass, "process_ends", _nothing)
            ends()
            _flush_standard_streams()

    def __remember(self, pid: int, ended: Callable[[], None]) -> None:
        if self.active_children is None:
            self.active_children = set()
        self.active_children.add(pid)
        if self.__ended is None:
            self.__ended = {}
        self.__ended[pid] = ended
        if self.__descriptors is None:
            self.__descriptors = {}
        # Without a descriptor (an old kernel, or none left) it is polled for.
        with contextlib.suppress(AttributeError, OSError):
            self.__descriptors[pid] = os.pidfd_open(pid)

    def __forget(self, pid: int) -> None:
        if self.active_children is not None:
            self.active_children.discard(pid)
        descriptor = (self.__descriptors or {}).pop(pid, None)
        if descriptor is not None:
            os.close(descriptor)
        (self.__ended or {}).pop(pid, _nothing)()

    def __full(self) -> bool:
        active = self.active_children
        if active is None or len(active) < self.max_children:
            return False
        self.collect_children()
        return len(active) >= self.max_children

    def __await_slot(self) -> None:
        # Our loop takes no request while all slots are in use. This is for a
        # loop of somebody else's, which knows nothing of slots.
        while self.__full():
            Waiter().wait(self._loop_wake_descriptors(), _LOOK_AGAIN)

    def _loop_accept_delay(self) -> float:
        if not self.__full():
            return super()._loop_accept_delay()
        seen = len(self.__descriptors or ()) == len(self.active_children or ())
        return float("inf") if seen else _LOOK_AGAIN

    def _loop_wake_descriptors(self) -> Collection[int]:
        # The base is not asked: the server may be the standard library's.
        return tuple((self.__descriptors or {}).values())

    def _loop_housekeep(self) -> None:
        super()._loop_housekeep()
        self.collect_children()
