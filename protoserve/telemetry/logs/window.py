"""
What a writer has appended and the log has not yet confirmed.

Every broker is written to in the same way: entries are on their way, many at a time, in
the order of `append`; each is confirmed, or sent again. A window holds them until then.
It is bounded in entries and bytes: past it `append` waits, and after `PATIENCE` seconds
in which nothing was confirmed it says that the log is unavailable.

Nothing is given up from here. An entry whose `flush` has failed is still tried, so it
may be appended again by its id at any time: an id that is on its way is not added
twice, and `flush` never says that something is safe which was dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import attrs

from protoserve.errors import ProtoserveError
from protoserve.telemetry.logs.base import LogUnavailableError

__all__ = [
    "ENTRIES",
    "MAX_ENTRY",
    "PATIENCE",
    "EntryTooLargeError",
    "Outgoing",
    "Window",
]

MAX_ENTRY = 900_000
"""Bytes of an entry that every log takes: brokers take 1,000,000 to 1,048,576, with
headers, unless they are told otherwise."""
PATIENCE = 30.0
"""Seconds without a confirmation after which a log is said to be unavailable: three
times what the election of a new leader took on a slow machine."""
ENTRIES = 512
BYTES = 16 << 20
"""What a window holds at most."""


class EntryTooLargeError(ProtoserveError, ValueError):
    """
    An entry is larger than the log takes, now or later.
    """

    def __init__(self, id: str, size: int, limit: int) -> None:  # noqa: A002
        super().__init__(id, size, limit)
        self.id = id
        self.size = size
        """Bytes of its payload."""
        self.limit = limit
        """Bytes that the log takes."""

    def __str__(self) -> str:
        return (
            f"entry {self.id}: expected at most {self.limit} bytes, found {self.size}"
        )


@attrs.frozen
class Outgoing:
    """
    An entry on its way.
    """

    serial: int
    """Its number in the window."""
    id: str
    key: str
    payload: bytes


class Window:
    """
    Entries on their way to a log. Any thread may use it.

    Args:
        log: what errors call the log.
        added: is called when there is something to send.
        limit: bytes of an entry.
        patience: seconds; see the module.
    """

    def __init__(
        self,
        log: str,
        added: Callable[[], object] = lambda: None,
        *,
        limit: int = MAX_ENTRY,
        patience: float = PATIENCE,
    ) -> None:
        self.limit = limit
        self._log = log
        self._added = added
        self._patience = patience
        self._changed = threading.Condition()
        self._pending: dict[int, Outgoing] = {}
        self._serials: dict[str, int] = {}
        self._fresh: deque[Outgoing] = deque()
        self._bytes = 0
        self._next = 0
        self._closed = False
        self.trouble = "no answer"
        """What went wrong last."""
        self.progress = time.monotonic()
        """When something was last confirmed, or first waited for."""

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, id: str, key: str, payload: bytes) -> None:  # noqa: A002
        """
        Take an entry in, when there is room.

        Raises:
            EntryTooLargeError: its payload is.
            LogUnavailableError: there is no room, and nothing has been confirmed.
        """
        size = len(payload)
        if size > self.limit:
            raise EntryTooLargeError(id, size, self.limit)
        with self._changed:
            if id in self._serials:
                return
            self._wait(
                lambda: (
                    len(self._pending) < ENTRIES
                    and (self._bytes + size <= BYTES or not self._pending)
                )
            )
            if not self._pending:
                self.progress = time.monotonic()
            item = Outgoing(self._next, id, key, bytes(payload))
            self._next += 1
            self._pending[item.serial] = item
            self._serials[id] = item.serial
            self._bytes += size
            self._fresh.append(item)
            self._changed.notify_all()
        self._added()

    def settle(self) -> None:
        """
        Wait until all that is in it now has been confirmed.

        Raises:
            LogUnavailableError: nothing has been confirmed for too long.
        """
        with self._changed:
            end = self._next
            self._wait(lambda: next(iter(self._pending), end) >= end)

    def fresh(
        self, most: int = ENTRIES, size: int = BYTES, timeout: float = 0.0
    ) -> list[Outgoing]:
        """
        Give what has to be sent, in order; it counts as sent from then on.

        Args:
            most: entries, at most.
            size: bytes, at most (one entry at least).
            timeout: seconds to wait for the first.
        """
        with self._changed:
            if timeout:
                self._changed.wait_for(lambda: self._fresh or self._closed, timeout)
            given: list[Outgoing] = []
            while self._fresh and len(given) < most:
                size -= len(self._fresh[0].payload)
                if given and size < 0:
                    break
                given.append(self._fresh.popleft())
            return given

    def done(self, serials: Iterable[int]) -> None:
        """
        Say that entries have been confirmed; a second time does no harm.
        """
        with self._changed:
            for serial in serials:
                if item := self._pending.pop(serial, None):
                    del self._serials[item.id]
                    self._bytes -= len(item.payload)
                    self.progress = time.monotonic()
            self._changed.notify_all()

    def again(self) -> None:
        """
        Have all that is not confirmed sent again, in order.

        Only what comes behind a failed entry keeps its place like that: resending one
        entry alone would put it behind those that came after it.
        """
        with self._changed:
            self._fresh = deque(self._pending.values())
            self._changed.notify_all()

    def close(self) -> None:
        """
        Let all who wait go.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool]) -> None:
        start = time.monotonic()
        while not condition():
            if self._closed:
                raise LogUnavailableError(f"{self._log}: the log is closed")
            left = max(start, self.progress) + self._patience - time.monotonic()
            if left <= 0:
                raise LogUnavailableError(
                    f"{self._log}: nothing was confirmed for {self._patience:g} s, "
                    f"{len(self._pending)} entries wait: {self.trouble}"
                )
            self._changed.wait(left)
