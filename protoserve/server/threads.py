"""
A thread for each request.

There is no bound on their number: that is the contract of this mix-in, and
another one has a pool. The threads are remembered only to be waited for, and
the finished ones are forgotten each time the number of remembered ones has
doubled, so that neither memory nor time grows with the requests served.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from protoserve.server._reporting import tell_failure

if TYPE_CHECKING:
    from protoserve.server.base import BaseServer as _Base
else:
    _Base = object

__all__ = ["ThreadingMixIn"]


class _Threads:
    """
    Threads that have been started; the finished ones are forgotten.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: list[threading.Thread] = []
        self._reap_at = 8

    def append(self, thread: threading.Thread) -> None:
        with self._lock:
            self._started.append(thread)
            if len(self._started) >= self._reap_at:
                self._reap()
                self._reap_at = max(8, 2 * len(self._started))

    def join(self) -> None:
        """
        Wait until all have finished, save the one that calls.
        """
        for thread in self:
            if thread is not threading.current_thread():
                thread.join()

    def __len__(self) -> int:
        with self._lock:
            self._reap()
            return len(self._started)

    def __iter__(self) -> Iterator[threading.Thread]:
        with self._lock:
            self._reap()
            return iter(tuple(self._started))

    def _reap(self) -> None:
        self._started = [thread for thread in self._started if thread.is_alive()]


class ThreadingMixIn(_Base):
    """
    Handles each request in a new thread.

    May be overridden, as class variables:

    - `daemon_threads`, `block_on_close`

    May be overridden:

    - `process_request_thread`, which runs in the thread

    Goes before the server class: ``class S(ThreadingMixIn, TCPServer)``.
    """

    daemon_threads: bool = False
    """Whether the program may end while requests are handled."""

    block_on_close: bool = True
    """Whether `server_close` waits for the threads, unless they are daemons."""

    @functools.cached_property
    def _threads(self) -> _Threads:
        # Not made in __init__: many a subclass calls only the server's.
        return _Threads()

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Start a thread for the request.
        """
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            daemon=self.daemon_threads,
        )
        thread.start()
        if self.block_on_close and not self.daemon_threads:
            self._threads.append(thread)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """
        Handle the request to its end, in the thread that is for it.
        """
        try:
            self.finish_request(request, client_address)
        except Exception as error:
            tell_failure(self, request, client_address, error)
        finally:
            self.shutdown_request(request)

    def server_close(self) -> None:
        """
        Close the server; wait for its threads if `block_on_close` says so.
        """
        super().server_close()
        self._threads.join()
