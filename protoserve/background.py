"""
An event loop of one's own for servers that have none.

Under the classic stack each request is handled by a thread or process that may
block. `async def` routes of the same handler run on this loop, in one thread for
the whole service, while the request's own thread waits for them. A forked child
has no thread of its parent's, so it starts a loop of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["BackgroundLoop"]

_T = TypeVar("_T")


class BackgroundLoop:
    """
    Runs coroutines for threads; the loop starts with the first of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._owner = os.getpid()
        os.register_at_fork(after_in_child=self._forget)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """
        Run a coroutine to its end and give its result.
        """
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._started()).result()

    def iterate(self, values: AsyncIterator[_T]) -> Iterator[_T]:
        """
        Give an asynchronous iterator's values one by one.
        """

        async def following() -> tuple[bool, Any]:
            try:
                return True, await anext(values)
            except StopAsyncIteration:
                return False, None

        while True:
            more, value = self.run(following())
            if not more:
                return
            yield value

    def close(self) -> None:
        """
        Stop the loop and wait until its thread has ended.
        """
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
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
