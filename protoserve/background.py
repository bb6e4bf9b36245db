"""
An event loop of one's own for servers that have none.

Under the classic stack each request is handled by a thread or process that may
block. `async def` routes of the same handler run on this loop, in one thread for
the whole service, while the request's own thread waits for them. A forked child
has no thread of its parent's, so it starts a loop of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["BackgroundLoop"]

_T = TypeVar("_T")
_PATIENCE = 1.0
"""Seconds that a loop has to say that it is not stuck."""


class BackgroundLoop:
    """
    Runs coroutines for threads; the loop starts with the first of them.
    """

    _lock: threading.Lock
    _loop: asyncio.AbstractEventLoop | None
    _thread: threading.Thread | None

    def __init__(self) -> None:
        self._forget()
        _loops.add(self)

    def run(self, awaitable: Awaitable[_T]) -> _T:
        """
        Wait for an awaitable and give its result.
        """
        import asyncio

        async def outcome() -> tuple[Any, BaseException | None]:
            # What is no Exception, as SystemExit, would end the loop for everyone.
            try:
                return await awaitable, None
            except asyncio.CancelledError:
                raise
            except BaseException as exc:
                return None, exc

        future = asyncio.run_coroutine_threadsafe(outcome(), self._started())
        result, error = future.result()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return] # it is what was awaited

    def start(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """
        Begin a coroutine without waiting for it.
        """
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def is_here(self) -> bool:
        """
        Say whether the calling thread is the loop's, which may not wait.
        """
        return threading.current_thread() is self._thread

    def is_stuck(self) -> bool:
        """
        Say whether a coroutine blocks the loop, so that nothing else can run on it.
        """
        loop = self._loop
        if loop is None:
            return False
        answered = threading.Event()
        loop.call_soon_threadsafe(answered.set)
        return not answered.wait(_PATIENCE)

    def close(self) -> None:
        """
        Cancel what still runs, stop the loop and wait until its thread has ended.

        A loop that is stuck is left to itself: its thread ends with the process.
        """
        if self.is_stuck():
            return
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.create_task, _finish(loop))
        thread.join(_PATIENCE)
        if not thread.is_alive():
            loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=loop.run_forever, name="protoserve-async", daemon=True
                )
                self._thread.start()
            return self._loop

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop = self._thread = None


async def _finish(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE / 2):
            await asyncio.gather(*others, return_exceptions=True)
            await loop.shutdown_asyncgens()
    loop.stop()


_loops: weakref.WeakSet[BackgroundLoop] = weakref.WeakSet()


def _forget_all() -> None:
    for loop in list(_loops):
        loop._forget()


os.register_at_fork(after_in_child=_forget_all)
