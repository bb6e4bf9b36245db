"""
Wait for requests in a way that another thread, or a signal, can cut short.

A `Waker` is a pipe whose reading end sits in the selector; a byte in it ends
the wait at once. Its descriptors are closed when the last reference goes, not
by the loop: a thread that is just about to wake a loop that is just ending
holds a reference, so it can never write into a descriptor number that has been
given to somebody else meanwhile. There is no lock, so a signal handler may
wake the loop that it interrupted, and a child that was forked at any moment
inherits nothing that is locked.

A `Waiter` keeps a selector for the descriptors of the last wait and builds a
new one only when they change. It polls and never uses epoll: an epoll object
is shared with forked children, a poll object is not.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Collection

__all__ = ["Waiter", "Waker"]

_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class Waker:
    """
    A descriptor that becomes readable when `wake` is called, from anywhere.
    """

    _reader: int | None = None
    _writer: int | None = None

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """
        Return the descriptor to wait on.
        """
        assert self._reader is not None
        return self._reader

    def wake(self) -> None:
        """
        End the wait that is under way, or else the next one.
        """
        assert self._writer is not None
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            os.write(self._writer, b"\0")

    def drain(self) -> None:
        """
        Forget the wake-ups so far.
        """
        # A forked child may have drained the shared pipe before us.
        with contextlib.suppress(BlockingIOError):
            os.read(self.fileno(), 4096)

    def __del__(self) -> None:
        for end in (self._reader, self._writer):
            if end is not None:
                os.close(end)


class Waiter:
    """
    Waits until one of some descriptors can be read.

    Args:
        waker: ends a wait early; None when nothing has to.
    """

    def __init__(self, waker: Waker | None = None) -> None:
        self.waker = waker
        self._watched: frozenset[int] = frozenset()
        self._selector = self._build()

    def wait(self, descriptors: Collection[int], timeout: float | None) -> set[int]:
        """
        Wait for input on any of `descriptors`, or for the waker.

        Args:
            descriptors: the descriptors to watch during this wait.
            timeout: seconds; None waits for ever, 0 only looks.

        Returns:
            Those that can be read, or have failed; empty after a timeout or a
            wake-up.
        """
        watched = frozenset(descriptors)
        if watched != self._watched:
            self._selector.close()
            self._watched = watched
            self._selector = self._build()
        ready = {key.fd for key, _ in self._selector.select(timeout)}
        if self.waker is not None and self.waker.fileno() in ready:
            ready.remove(self.waker.fileno())
            self.waker.drain()
        return ready

    def _build(self) -> selectors.BaseSelector:
        selector = _Selector()
        for descriptor in self._watched:
            selector.register(descriptor, selectors.EVENT_READ)
        if self.waker is not None:
            selector.register(self.waker.fileno(), selectors.EVENT_READ)
        return selector
