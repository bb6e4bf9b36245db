"""
The server's side of a service under test, without sockets.

A `Bench` has what all clients of one service share; `protoserve.testing._links` has the
server's ends of their conversations. Plain routes run at once, in the thread of the
test, so that they can be followed with a debugger; coroutines run beside, on the
service's own loop. What comes of them is dealt with when the test does something next,
in its thread: no two plain routes ever run at a time, and the same test does the same
each time.

Waiting is bounded. It ends at once if nobody is left who could send anything: no
coroutine, no timer, no thread that was not there before.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from protoserve.peers import PeerTable
from protoserve.service import Service
from protoserve.testing._clock import Clock
from protoserve.testing._failures import Failures, watched

if TYPE_CHECKING:
    from protoserve.testing._links import DatagramLink, Link

__all__ = ["Bench"]

_LAST_WORDS = 0.25
"""Seconds that coroutines have to end by themselves, when the test has ended."""


class Bench:
    """
    A service that is being tested.

    Args:
        app: the service.
        clock: what its sessions take the time from; its limits on time are kept by a
            `Clock` only, as they would end a test that is looked at with a debugger.
        raise_errors: whether exceptions of the handler are raised in the test.
    """

    def __init__(
        self, app: Service, clock: Callable[[], float] | None, *, raise_errors: bool
    ) -> None:
        self.app = app
        self.clock = clock
        self.raise_errors = raise_errors
        self.failures = Failures()
        self.links: list[Link] = []
        self.tasks: set[Future[Any]] = set()
        self.by_address: dict[Any, DatagramLink] = {}
        self._finished: deque[Callable[[], object]] = deque()
        self._stirred = threading.Event()
        self._attending = False
        self._threads: frozenset[threading.Thread] = frozenset()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._threads = frozenset(threading.enumerate())
            stack.enter_context(watched(self.app, self._failed))
            if self.app._leave is None:  # else it is left by who has opened it
                stack.callback(self.app.close)
            self.app.open()
            if self.clock is not None:
                limits = self.app.limits
                self.app._tables[self] = PeerTable(
                    limits.peers, limits.peer_idle, self.app._gone.append, self.clock
                )
            stack.callback(self._end)
            if isinstance(self.clock, Clock):
                stack.callback(self.clock.listen(self.attend))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _failed(self, failure: BaseException) -> None:
        self.failures.add(failure)
        self.stir()

    def raise_failures(self) -> None:
        """
        Raise what the handler has raised, if that is wanted.
        """
        failure = self.failures.take()
        if failure is not None and self.raise_errors:
            raise failure

    # Working ---------------------------------------------------------------

    def attend(self) -> None:
        """
        Deal with everything that can be dealt with at once.
        """
        if self._attending:  # a route uses the client
            return
        self._attending = True
        try:
            while self._finished:
                self._finished.popleft()()
            for link in list(self.links):
                link.attend()
        finally:
            self._attending = False

    def stir(self) -> None:
        """
        Let whoever waits look again; from any thread.
        """
        self._stirred.set()

    def wait(self, condition: Callable[[], Any], timeout: float) -> bool:
        """
        Wait until a condition holds; say whether it does.

        Args:
            condition: what is waited for.
            timeout: seconds that others may take to bring it about. If there are none
                who could, it is not waited at all.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._stirred.clear()
            self.attend()
            if condition():
                return True
            if not self.is_anyone_left():
                self.attend()  # to what has ended meanwhile
                if condition():
                    return True
                if not self.is_anyone_left() and not self._stirred.is_set():
                    return False
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._stirred.wait(left)

    def is_anyone_left(self) -> bool:
        """
        Say whether anything but the test could make something happen.
        """
        if self.tasks:
            return True
        background = self.app._background
        loop: Any = background._loop
        if loop is not None:
            asyncio = sys.modules["asyncio"]
            if asyncio.all_tasks(loop) or getattr(loop, "_ready", ()):
                return True
            timers = getattr(loop, "_scheduled", ())
            if any(not timer.cancelled() for timer in list(timers)):
                return True
        return any(
            thread is not background._thread and not thread.name.startswith("asyncio_")
            for thread in set(threading.enumerate()) - self._threads
        )

    def start(
        self, coroutine: Any, then: Callable[[bool], object] | None = None
    ) -> None:
        """
        Run a coroutine beside everything else.

        Args:
            coroutine: what to run.
            then: is called, in the thread of the test, with its result; with False
                if it was cancelled.
        """
        task = self.app._background.start(coroutine)
        self.tasks.add(task)

        def done(ended: Future[Any]) -> None:
            going = False
            if not ended.cancelled():
                error = ended.exception()
                if error is None:
                    going = ended.result()
                else:
                    self.failures.add(error)
            if then is not None:
                self._finished.append(functools.partial(then, going))
            self.tasks.discard(ended)
            self.stir()

        task.add_done_callback(done)

    def _end(self) -> None:
        """
        End all conversations, and then the coroutines that are left.
        """
        for link in list(self.links):
            link.leave()
        self.wait(lambda: not self.tasks, _LAST_WORDS)
        left = list(self.tasks)
        for task in left:
            task.cancel()
        if left:
            # To be cancelled is no more than a promise until the loop has come round.
            with contextlib.suppress(TimeoutError):
                self.app._background.start(_rounds()).result(_LAST_WORDS)
        self.attend()
        for link in list(self.links):
            link.abort()


async def _rounds() -> None:
    """
    Let everything else on the loop have a few turns.
    """
    import asyncio

    for _ in range(10):
        await asyncio.sleep(0)
