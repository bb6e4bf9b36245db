"""
Where the rows of a batch route come together, until there are enough or it is time.

One `Gathering` stands behind each batch route of a service, for all its connections and
peers. Whoever brings the last row that a batch needs calls the route; a thread sees to
those that wait too long. Batches are given to the route in order, one at a time. While
the route works, rows gather for the next batch; whoever would begin a second one waits,
so that what is not taken stays where it came from: in the kernel's queue, or with the
peer.

A route that is a coroutine function runs on the service's background loop, as the
lifespan does, and what brought the last row awaits it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np

from protoserve.account import Account
from protoserve.background import BackgroundLoop
from protoserve.batch import Batch, Chunk, Source, layout_of
from protoserve.messages import Message
from protoserve.protocol import Protocol
from protoserve.rarelog import RareLog
from protoserve.routing import BatchRoute
from protoserve.session import Session

__all__ = ["Gathering"]

logger = logging.getLogger("protoserve")

_PATIENCE = 10.0
"""Seconds that a route may take for the batch at hand when all is to end."""


class Gathering:
    """
    Gathers the rows of one batch route, and calls it.

    Args:
        protocol: what is spoken.
        message: which messages are gathered.
        route: what is called, and when.
        background: where the route runs, if it is a coroutine function.
        account: where the fate of datagrams is written down.
    """

    def __init__(
        self,
        protocol: Protocol,
        message: type[Message],
        route: BatchRoute,
        background: BackgroundLoop,
        account: Account,
    ) -> None:
        self.route = route
        self._account = account
        self.layout = layout_of(protocol, message)
        self.failed = 0
        """Rows whose route has raised an exception."""
        self._source = Source(protocol, message, self.layout)
        self._background = background
        self._rare = RareLog(logger)
        self._record_size = 0
        if self.layout is not None and self.layout.records is not None:
            self._record_size = self.layout.records.rows.dtype.itemsize
        self.make_private()

    def make_private(self) -> None:
        """
        Begin with nothing: what has gathered before a fork is the parent's.
        """
        self._lock = threading.Lock()
        self._calling = threading.Lock()
        self._caller: int | None = None
        self._wake = threading.Event()
        self._chunks: list[Chunk] = []
        self._singles: list[tuple[Any, int, Any]] = []
        self._single_datagrams = 0
        self._rows = 0
        self._due: float | None = None
        self._thread: threading.Thread | None = None
        self._async_lock: asyncio.Lock | None = None

    # What comes ------------------------------------------------------------

    def add(self, message: Any, session: Session, header: Any, data: bytes) -> Any:
        """
        Take one message that has been parsed.

        Returns:
            `None`, or what has to be awaited before more comes.
        """
        layout = self.layout
        kept = (header, message) if layout is None else data
        rows = 1
        if self._record_size and layout is not None:
            rows = (len(data) - layout.size) // self._record_size
            if not rows:
                return None
        moment = int(session.received_at * 1e9)
        with self._lock:
            if not session.stream:
                self._account.set_aside()
                self._single_datagrams += 1
            self._singles.append((kept, moment, session.peer))
            full = self._grow(rows)
        return self._give() if full else None

    def add_chunk(self, chunk: Chunk) -> Any:
        """
        Take many frames at once; as `add` for the rest.
        """
        if not chunk.size:
            return None
        self._account.set_aside(chunk.datagrams)
        with self._lock:
            self._close_singles()
            self._chunks.append(chunk)
            full = self._grow(chunk.size)
        return self._give() if full else None

    def _grow(self, rows: int) -> bool:
        self._rows += rows
        if self._due is None:
            self._due = time.monotonic() + self.route.max_age
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="protoserve-batches", daemon=True
                )
                self._thread.start()
            self._wake.set()
        return self._rows >= self.route.max_rows

    def _close_singles(self) -> None:
        """
        Make a chunk of what came one by one.
        """
        if not self._singles:
            return
        kept, times, peers = map(list, zip(*self._singles, strict=True))
        self._singles.clear()
        layout = self.layout
        rows = counts = None
        heads: Any = kept
        if layout is not None:
            if layout.records is not None:
                size = layout.size
                lengths = np.fromiter(map(len, kept), "i8", len(kept))
                counts = (lengths - size) // self._record_size
                rows = np.frombuffer(
                    b"".join([data[size:] for data in kept]), layout.records.rows.dtype
                )
                kept = [data[:size] for data in kept]
            heads = np.zeros(len(kept), layout.dtype)
            if layout.size:
                heads = np.frombuffer(b"".join(kept), layout.dtype)
        datagrams, self._single_datagrams = self._single_datagrams, 0
        self._chunks.append(
            Chunk(heads, rows, counts, times, peers, _itself, datagrams)
        )

    # What goes -------------------------------------------------------------

    def flush(self) -> Any:
        """
        Give what has gathered to the route, however little it is; as `add` otherwise.
        """
        return self._give(least=1)

    def _give(self, least: int | None = None) -> Any:
        if self.route.route.is_async:
            return self._waited(self._background.start(self._give_async(least)))
        if self._is_caller():
            return None  # it gets them when it is done with what it has
        with self._calling:
            self._caller = threading.get_ident()
            try:
                while (batch := self._take(least)) is not None:
                    try:
                        self.route.route.method(batch)
                    except (Exception, SystemExit) as exc:
                        self._tell(batch, exc)
                    else:
                        self._account.deliver(batch.datagrams)
            finally:
                self._caller = None
        return None

    def _is_caller(self) -> bool:
        """
        Say whether it is the route itself that asks for something.
        """
        return self._caller == threading.get_ident()

    async def _give_async(self, least: int | None) -> None:
        if self._async_lock is None:
            self._async_lock = asyncio.Lock()
        async with self._async_lock:
            while (batch := self._take(least)) is not None:
                try:
                    await self.route.route.method(batch)
                except asyncio.CancelledError as exc:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise  # all is to end
                    self._tell(batch, exc)  # what the route awaited was cancelled
                except (Exception, SystemExit) as exc:
                    self._tell(batch, exc)
                else:
                    self._account.deliver(batch.datagrams)

    async def _waited(self, future: Future[None]) -> None:
        await asyncio.wrap_future(future)

    def _take(self, least: int | None) -> Batch[Any] | None:
        """
        Take the next batch, if there are enough rows for one.
        """
        most = self.route.max_rows
        with self._lock:
            if self._rows < (most if least is None else least):
                return None
            self._close_singles()
            taken: list[Chunk] = []
            size = 0
            while self._chunks and size < most:
                chunk = self._chunks[0]
                if taken and chunk.counts is not None and chunk.counts[0] > most - size:
                    break  # the next frame does not fit any more
                first, rest = chunk.split(most - size)
                taken.append(first)
                size += first.size
                self._chunks[:1] = [] if rest is None else [rest]
            self._rows -= size
            self._due = None
            if self._rows:
                self._due = time.monotonic() + self.route.max_age
                self._wake.set()
        return Batch(self._source, taken)

    def _tell(self, batch: Batch[Any], exc: BaseException) -> None:
        self.failed += len(batch)
        self._account.drop("sink", batch.datagrams)
        self._rare.log(
            logging.ERROR,
            "%s() failed for %d rows",
            self.route.route.name,
            len(batch),
            kind=self.route.route.name,
            exc_info=exc,
        )

    # Time ------------------------------------------------------------------

    def _watch(self) -> None:
        """
        Give away what has waited too long, and all that is left after `close`.
        """
        me = threading.current_thread()
        while self._thread is me:
            self._wake.wait()
            self._wake.clear()
            while (due := self._due) is not None and self._thread is me:
                left = due - time.monotonic()
                if left > 0:
                    self._wake.wait(left)
                    self._wake.clear()
                elif self._due == due and not self.complete(self.flush()):
                    return
        self.complete(self.flush())

    def complete(self, awaitable: Any) -> bool:
        """
        Wait for what `add` or `flush` has given, unless a coroutine would stop for it.

        Returns:
            Whether it goes on: not if it was still waiting when all came to an end.
        """
        if awaitable is None:
            return True
        if self._background.is_here():
            awaitable.close()  # what it waits for goes on
            return True
        try:
            self._background.run(awaitable)
        except CancelledError:
            return False
        return True

    def close(self) -> None:
        """
        Let the thread give all that is left to the route, and end.

        A route that does not come to an end is left to itself.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._wake.set()
            if thread is not threading.current_thread() and not self._is_caller():
                thread.join(_PATIENCE)
                if thread.is_alive():
                    text = "%s() is stuck: %d rows are not given to it"
                    logger.error(text, self.route.route.name, self._rows)
        self._async_lock = None


def _itself(peer: Any) -> Any:
    return peer
