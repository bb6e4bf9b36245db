"""
From a log to a sink: batches of the right size, until the sink has them.

A delivery is one reader of a group, in a thread of its own, so a slow sink holds up
nobody but itself. Entries are acknowledged when the sink has stored their rows and
their ids, or when it has them already, or when they are put aside.

- A sink that is not there is tried again, with pauses that grow, for as long as it
  takes; meanwhile the entries stay in the log.
- A sink that refuses rows gets them in halves, down to the entry, and of that each
  table by itself. What is refused then is put aside with the explanation. A table's
  own id is the entry's and its name: after a crash it is known which were stored.
- An error that no sink should raise may be either: it is tried again some times, and
  then taken for a refusal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import attrs

from protoserve.rarelog import RareLog
from protoserve.telemetry.logs.base import Consumer, Entry, Log, LogUnavailableError
from protoserve.telemetry.packing import unpack_tables
from protoserve.telemetry.putaside import PutAside
from protoserve.telemetry.sinks.base import (
    Sink,
    SinkRefusedError,
    SinkUnavailableError,
)
from protoserve.telemetry.trimming import Trimmer

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Delivery", "DeliveryStats", "Refusals"]

logger = logging.getLogger("protoserve")

Result = TypeVar("Result")
NamedTables: TypeAlias = "Mapping[str, pa.Table]"
"""Rows by the name of their table."""

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_TRIES = 5
"""How often an error that no sink should raise is taken for a passing one."""
_LOOK = 0.1
"""Seconds for which an empty log is waited for at a time."""
_GRACE = 2.0
"""Seconds more for a sink that is in the middle of something at the end."""
_NICE = 5
"""
How far its thread stands back where there is not enough time for all: a third is left.

Not further, as others wait when it is made to wait with the interpreter's lock.
"""
_MOST = 256
"""Entries that are taken at once."""
_MOST_REFUSED = 100_000
"""Entries that are known to be refused: others may refuse them much later."""


@attrs.define
class DeliveryStats:
    """
    What a delivery has done.
    """

    rows: int = 0
    """Those that were stored."""
    entries: int = 0
    """Those that were dealt with."""
    delivered: int = 0
    """The datagrams for which the entries stand that the sink has."""
    dropped: int = 0
    """The datagrams for which the entries stand of which something was refused."""
    batches: int = 0
    """How often the sink has stored something."""
    duplicates: int = 0
    """Entries that it had already."""
    refused: int = 0
    """Entries of which something was refused."""
    retries: int = 0
    """How often something had to be tried again."""
    lag: int = 0
    """Entries in the log that are yet to be dealt with, as of a second ago."""
    last_error: str = ""
    """What was wrong the last time that something was."""


class _StoppedError(Exception):
    """
    The time to deliver is over.
    """


class _ConflictError(Exception):
    """
    Tables of one name have columns of one name that have no type in common.
    """


class Refusals:
    """
    What one or more of several sinks have refused: each entry counts once.
    """

    def __init__(self) -> None:
        self.count = 0
        """The datagrams for which the entries stand."""
        self._lock = threading.Lock()
        self._ids: dict[str, None] = {}

    def add(self, entry: Entry) -> None:
        """
        Count an entry, unless another sink has refused it lately.
        """
        with self._lock:
            if entry.id in self._ids:
                return
            self._ids[entry.id] = None
            self.count += entry.count
            if len(self._ids) > _MOST_REFUSED:
                del self._ids[next(iter(self._ids))]


@attrs.frozen(eq=False)
class _Item:
    """
    What an entry brings.
    """

    id: str
    entry: Entry
    tables: NamedTables
    rows: int
    count: int
    """The datagrams that it stands for."""


class Delivery:
    """
    Brings the entries of a log to a sink.

    Args:
        log: where entries come from.
        group: as which group they are read.
        sink: where they go. The delivery's thread opens and closes it.
        unpack: makes tables of an entry's payload.
        count: says how many datagrams were in what was unpacked last, where the log keeps
            no such number.
        max_rows: a batch is stored when it has so many rows; an entry more may be in.
        max_age: seconds after which a batch is stored, however small.
        max_size: bytes of payload at which a batch is stored.
        filter: makes tables of tables: fewer rows, columns or tables.
        aside: where what the sink refuses is kept; `None`: it is only counted.
        refusals: counts what is refused, together with other deliveries from the log.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        sink: Sink,
        *,
        unpack: Callable[[bytes], NamedTables] = unpack_tables,
        count: Callable[[], int] | None = None,
        max_rows: int = 50_000,
        max_age: float = 1.0,
        max_size: int = 64 << 20,
        filter: Callable[[NamedTables], NamedTables] | None = None,  # noqa: A002
        aside: PutAside | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.group = group
        self.stats = DeliveryStats()
        self._log = log
        self._sink = sink
        self._unpack = unpack
        self._count = count
        self._filter = filter
        self._max_rows = max_rows
        self._max_age = max_age
        self._max_size = max_size
        self._aside = aside
        self._refusals = refusals
        self._rare = RareLog(logger, 60.0)
        self._random = random.Random()  # noqa: S311 - only spreads retries
        self._closing = threading.Event()
        self._never = threading.Event()
        self._deadline = 0.0
        self._open = False
        self._cut_off = False
        """Whether the log could not be reached the last time."""
        self._odd = 0
        self._typical = 1.0
        self._looked = 0.0
        self._trimmer = Trimmer()
        self._consumer: Consumer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """
        Deliver from a thread of its own, until `close`.
        """
        self._thread = threading.Thread(
            target=self.run, name=f"deliver {self.group}", daemon=True
        )
        self._thread.start()

    def look(self) -> None:
        """
        Take note of what is yet to be delivered, and of what is gone from the log.

        To be called now and then, by any thread: the delivery's own waits for its sink.
        """
        self._note_lag()

    def close(self, drain: float = 5.0) -> bool:
        """
        Deliver what is there, for so many seconds at most; the rest stays in the log.

        A log that is not there is not waited for.

        Returns:
            Whether the thread has ended; a sink may hold it for longer.
        """
        if self._cut_off:
            drain = 0.0
        self._deadline = time.monotonic() + drain
        self._closing.set()
        if self._thread is None:
            return True
        self._thread.join(drain + _GRACE)
        if self._thread.is_alive():
            what = "log" if self._cut_off else "sink"
            logger.warning(
                "%s: the %s does not come back; it is left", self.group, what
            )
            return False
        return True

    def run(self) -> None:
        """
        Deliver until `close` is called from another thread.
        """
        _give_way()
        try:
            while not self._run_once():
                pass
        except _StoppedError:
            pass
        finally:
            self._close_sink()

    def _run_once(self) -> bool:
        """
        Deliver until the end; say whether it is that, or something went wrong.
        """
        consumer = None
        try:
            consumer = self._until_done(lambda: self._log.consume(self.group))
            self._consumer = consumer
            # Before there is anything to store, so that it is known whether it can be.
            self._until_done(lambda: self._store([]))
            while batch := self._gather(consumer):
                self._deliver(consumer, batch)
                batch.clear()  # else it is there as long as the next one is gathered
        except _StoppedError:
            raise
        except Exception as error:
            self._wrong(f"{type(error).__name__}: {error}")
            self._pause(1.0)
            return False
        finally:
            if consumer is not None:
                self._note_lag()
                self._consumer = None
                with contextlib.suppress(LogUnavailableError):
                    consumer.close()
        return True

    def _gather(self, consumer: Consumer) -> list[_Item]:
        """
        Take entries until they are a batch; none at the end.
        """
        batch: list[_Item] = []
        rows = size = 0
        ends = 0.0
        while rows < self._max_rows and size < self._max_size:
            now = time.monotonic()
            closing = self._closing.is_set()
            if closing and now >= self._deadline:
                raise _StoppedError
            if batch and now >= ends:
                break
            wait = min(_LOOK, ends - now) if batch else _LOOK
            most = min(max(int((self._max_rows - rows) / self._typical), 1), _MOST)
            entries = self._until_done(lambda n=most, t=wait: consumer.take(n, t))  # type: ignore[misc]
            self._note_lag()
            self._trimmer.after(worked=bool(entries or batch))
            if not entries and closing:
                break
            if entries and not batch:
                ends = time.monotonic() + self._max_age
            for entry in entries:
                item = self._item(entry)
                batch.append(item)
                rows += item.rows
                size += len(entry.payload)
                self._typical += (max(item.rows, 1) - self._typical) / 8
        return batch

    def _item(self, entry: Entry) -> _Item:
        """
        Unpack an entry; what cannot be unpacked is put aside, and brings nothing.
        """
        try:
            tables = self._unpack(entry.payload)
            if self._filter is not None:
                tables = self._filter(tables)
        except Exception as error:
            why = str(error) or type(error).__name__
            self._refuse(entry, self._counted(entry), why, entry.payload)
            return _Item(entry.id, entry, {}, -1, 0)
        filled = {name: table for name, table in tables.items() if table.num_rows}
        rows = sum(table.num_rows for table in filled.values())
        return _Item(entry.id, entry, filled, rows, self._counted(entry))

    def _counted(self, entry: Entry) -> int:
        return entry.count if self._count is None else self._count()

    def _deliver(self, consumer: Consumer, items: Sequence[_Item]) -> None:
        """
        Have the sink store items, or some of them and the others put aside.
        """
        try:
            self._until_done(lambda: self._store(items))
            for item in items:
                if item.rows >= 0:
                    self.stats.delivered += item.count
        except (SinkRefusedError, _ConflictError) as error:
            if len(items) > 1:
                middle = len(items) // 2
                self._deliver(consumer, items[:middle])
                self._deliver(consumer, items[middle:])
                return
            self._deliver_parts(items[0], str(error))
        self._until_done(lambda: consumer.ack([item.entry for item in items]))
        self.stats.entries += len(items)

    def _deliver_parts(self, item: _Item, why: str) -> None:
        """
        Have the sink store those of an entry's tables that it does not refuse.
        """
        entry = item.entry
        refused: dict[str, str] = {}
        for name, table in item.tables.items():
            id_ = _part_id(item, name)
            part = _Item(id_, entry, {name: table}, table.num_rows, 0)
            try:
                if len(item.tables) == 1:
                    raise SinkRefusedError(why)
                self._until_done(lambda part=part: self._store([part]))  # type: ignore[misc]
            except SinkRefusedError as error:
                refused[name] = str(error)
        for name, said in refused.items():
            if self._aside is not None:
                self._aside.put_table(_part_id(item, name), item.tables[name], said)
        if refused:
            said = "; ".join(f"{n}: {e}" for n, e in refused.items())
            self._refuse(entry, item.count, said)
        else:
            self.stats.delivered += item.count

    def _refuse(
        self, entry: Entry, count: int, why: str, payload: bytes | None = None
    ) -> None:
        self.stats.refused += 1
        self.stats.dropped += count
        if self._refusals is not None:
            self._refusals.add(entry)
        self.stats.last_error = why
        if payload is not None and self._aside is not None:
            self._aside.put(entry.id, payload, why)
        text = "%s: an entry is refused and put aside: %s"
        self._rare.log(logging.ERROR, text, self.group, why, kind="refused")

    def _store(self, items: Sequence[_Item]) -> None:
        """
        Have the sink store what it does not know.
        """
        try:
            if not self._open:
                self._sink.open()
                self._open = True
            # Even what was asked before: a store may have worked and yet have failed.
            parts = [
                _part_id(i, n) for i in items if len(i.tables) > 1 for n in i.tables
            ]
            known = set(self._sink.known([*(item.id for item in items), *parts]))
            fresh = []
            for item in items:
                if item.id not in known:
                    known.add(item.id)
                    fresh.append(_without(item, known) if parts else item)
            tables = _merge([item.tables for item in fresh])
            if tables:
                self._sink.store(tables, [item.id for item in fresh])
                self.stats.batches += 1
        except (SinkRefusedError, _ConflictError) as error:
            if self._open:
                raise
            # That it cannot be opened says nothing of these rows.
            self._close_sink()
            raise SinkUnavailableError(str(error)) from error
        except Exception as error:
            self._close_sink()
            if isinstance(error, SinkUnavailableError):
                raise
            self._odd += 1
            text = f"{type(error).__name__}: {error}"
            if self._odd < _TRIES:
                raise SinkUnavailableError(text) from error
            self._odd = 0
            raise SinkRefusedError(text) from error
        self._odd = 0
        self.stats.duplicates += len(items) - len(fresh)
        self.stats.rows += sum(max(item.rows, 0) for item in fresh)

    def _until_done(self, step: Callable[[], Result]) -> Result:
        """
        Do something again and again, until it works.

        Raises:
            _StoppedError: there is no time left; or, at the end, no log.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                done = step()
            except (SinkUnavailableError, LogUnavailableError) as error:
                self._cut_off = isinstance(error, LogUnavailableError)
                self.stats.retries += 1
                self._wrong(str(error))
                if self._cut_off and self._closing.is_set():
                    raise _StoppedError from error
            else:
                self._cut_off = False
                return done
            self._note_lag()  # it grows while nothing can be stored
            self._pause(pause * self._random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _pause(self, seconds: float) -> None:
        """
        Wait, but no longer than there is time.
        """
        if not self._closing.is_set():
            self._closing.wait(seconds)
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _StoppedError
        self._never.wait(min(seconds, left))

    def _wrong(self, what: str) -> None:
        self.stats.last_error = what
        text = "%s: %s; it is tried again"
        # Sinks begin with their own name, mostly, which may have the user in it.
        named, _, said = what.partition(": ")
        if said and named.partition(":")[0] == self.group.partition(":")[0]:
            what = said
        self._rare.log(logging.WARNING, text, self.group, what, kind="again")

    def _note_lag(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        now = time.monotonic()
        if now - self._looked >= 1.0 or self._closing.is_set():
            self._looked = now
            with contextlib.suppress(LogUnavailableError, OSError):
                self.stats.lag = consumer.lag()

    def _close_sink(self) -> None:
        self._open = False
        try:
            self._sink.close()
        except Exception as error:
            logger.debug("%s: closing the sink: %s", self.group, error)


def _give_way() -> None:
    """
    Let others go first: what this thread has to do waits, and what arrives does not.
    """
    if sys.platform == "linux":  # elsewhere threads have no such number
        with contextlib.suppress(OSError):
            os.nice(_NICE)  # of this thread, below what the process has been given


def _part_id(item: _Item, name: str) -> str:
    """
    Give the id of one of an entry's tables, when that is stored by itself.
    """
    return f"{item.id}/{name}"


def _without(item: _Item, known: set[str]) -> _Item:
    """
    Leave out those tables that were stored by themselves, as others were refused then.
    """
    left = {n: t for n, t in item.tables.items() if _part_id(item, n) not in known}
    if len(left) == len(item.tables):
        return item
    rows = sum(table.num_rows for table in left.values())
    return attrs.evolve(item, tables=left, rows=rows)


def _merge(parts: Sequence[NamedTables]) -> dict[str, pa.Table]:
    """
    Put tables of one name together; columns that one does not have are null in it.
    """
    by_name: dict[str, list[pa.Table]] = {}
    for tables in parts:
        for name, table in tables.items():
            by_name.setdefault(name, []).append(table)
    merged = {}
    for name, pieces in by_name.items():
        if len(pieces) == 1:
            merged[name] = pieces[0]
            continue
        import pyarrow as pa

        try:
            merged[name] = pa.concat_tables(pieces, promote_options="permissive")
        except pa.ArrowException as error:
            raise _ConflictError(f"{name}: {error}") from error
    return merged
