"""
The spool: a log on the local disk, between what cannot wait and what may have to.

Appending copies nothing and waits for nothing but the kernel: the payload's CRC is
taken outside the lock, and header and payload go to the file by one `writev`. A thread
brings what was written to the disk, everything of some 50 ms at once; `flush` waits for
it. What was written survives the process, from `append` on; what `flush` has returned
for survives the machine.

Nothing that the disk does ends the writer: what does not fit is dropped by the policy
and counted.

One process writes, and each group has one reader; they may be different processes. The
writer's lock is taken when something is first appended. Objects of this module do not
work on in a child that was forked.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from protoserve.errors import DeclarationError
from protoserve.rarelog import RareLog
from protoserve.telemetry.floors import clean, progress, read_floors
from protoserve.telemetry.groups import SpoolConsumer
from protoserve.telemetry.locks import FileLock
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.segments import (
    HEADER_SIZE,
    LONGEST,
    list_segments,
    payload_crc,
    remove,
)
from protoserve.telemetry.spoolstats import Amount, SpoolStats
from protoserve.telemetry.syncing import Syncer
from protoserve.telemetry.writing import Writer

__all__ = ["Amount", "Spool", "SpoolStats", "WhenFull"]

WhenFull: TypeAlias = Literal["drop-oldest", "drop-newest", "block"]
"""What happens to an entry for which there is no room."""

_POLICIES = ("drop-oldest", "drop-newest", "block")
_AGAIN = 0.02
"""Seconds between two looks whether there is room again."""


class Spool:
    """
    A log in a folder.

    Args:
        folder: where; it is made.
        segment_size: bytes of a file before the next is begun; at most a quarter of
            `max_size`.
        max_size: bytes of all files.
        sync_every: seconds for which appended entries may be lost with the power.
        when_full: what gives way. ``drop-oldest``: the oldest file, acknowledged or
            not; ``drop-newest``: the entry; ``block``: the caller waits.
        name: what it is called in lines of log; the folder, if it is not given.
        forget_after: seconds after which a group that nobody reads any more does not
            hold files; a week.

    Raises:
        DeclarationError: an argument makes no sense, or the folder cannot be one.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        segment_size: int = 64 << 20,
        max_size: int = 8 << 30,
        sync_every: float = 0.05,
        when_full: WhenFull = "drop-oldest",
        name: str | None = None,
        forget_after: float = 7 * 86400.0,
    ) -> None:
        if when_full not in _POLICIES:
            raise DeclarationError(
                f"when_full: expected one of {', '.join(_POLICIES)}, found {when_full!r}"
            )
        for what, value in (
            ("segment_size", segment_size),
            ("max_size", max_size),
            ("sync_every", sync_every),
            ("forget_after", forget_after),
        ):
            if not value > 0:
                raise DeclarationError(f"{what}: expected more than 0, found {value!r}")
        self.folder = Path(folder)
        self.name = name or str(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise DeclarationError(
                f"spool {folder}: expected a folder, found a file"
            ) from None
        except OSError as error:
            raise DeclarationError(f"spool {folder}: {error.strerror}") from error
        self._segment_size = min(segment_size, max(max_size // 4, 1))
        self._max_size = max_size
        self._when_full = when_full
        self._forget_after = forget_after
        self._sync_every = sync_every
        self._stats = SpoolStats()
        self._rare = RareLog(logging.getLogger("protoserve"), 60.0)
        self._changed = threading.Condition()
        """Guards the writer, and tells readers of this process."""
        self._consumers: dict[str, SpoolConsumer] = {}
        self._closed = False
        self._pid = os.getpid()
        self._held: FileLock | None = None
        self._syncer: Syncer | None = None
        self._writer: Writer | None = None
        self._size = 0
        self._looked = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def claim(self) -> None:
        """
        Become the one that writes; `append` does it by itself.

        Raises:
            LogUnavailableError: another does, or the folder cannot be written.
        """
        with self._changed:
            self._claim()

    def append(
        self,
        key: str,
        payload: Any,
        id: str = "",  # noqa: A002 - the port's word
        *,
        count: int = 1,
    ) -> bool:
        """
        Append an entry, or drop it by the policy and count that.

        Args:
            key: entries of one key stay in order; up to 65,535 bytes.
            payload: bytes-like, or a list of such, up to 2 GiB together.
            id: what the entry is known by; one is made if it is empty.
            count: how many datagrams it stands for, up to 4,294,967,295.

        Returns:
            Whether it is in the spool.

        Raises:
            LogUnavailableError: the spool is closed, or another writes it.
        """
        pieces = payload if isinstance(payload, list | tuple) else (payload,)
        buffers = [memoryview(each).cast("B") for each in pieces]
        buffers = [each for each in buffers if each.nbytes]
        names = _encoded(key), _encoded(id)
        if max(map(len, names)) > 0xFFFF or not 0 <= count <= 0xFFFF_FFFF:
            raise DeclarationError(
                "append: expected a key and an id of at most 65,535 bytes and a count "
                f"in 0..4294967295, found {len(names[0])}, {len(names[1])} and {count}"
            )
        crc = payload_crc(buffers)
        with self._changed:
            writer = self._claim()
            why = self._append(writer, names, buffers, crc, count)
            if why:
                self._drop(why, count)
        return not why

    def flush(self) -> None:
        """
        Wait until all that was appended is on the disk.

        Raises:
            LogUnavailableError: some of it may not be: append that again, by its id.
        """
        if self._syncer is not None:
            self._syncer.flush()

    def consume(self, group: str) -> SpoolConsumer:
        """
        Read as the one reader of a group. A new group begins with the oldest entry.

        Raises:
            LogUnavailableError: the group has a reader, or the folder cannot be used.
        """
        consumer = SpoolConsumer(
            self.folder,
            group,
            forget_after=self._forget_after,
            appended=self._changed,
            left=self._note,
        )
        with self._changed:
            self._consumers[group] = consumer
        return consumer

    @property
    def total(self) -> int:
        """
        The sum of the counts of all entries that were ever appended.

        Raises:
            LogUnavailableError: another process writes the spool.
        """
        with self._changed:
            return self._claim().before

    def position(self, group: str) -> int:
        """
        Say how far a group is, on the scale of `total`, whichever process reads for it.
        """
        return self.progress(group)[0]

    def progress(self, group: str) -> tuple[int, int]:
        """
        Say how far a group is, and how much of that it has never had, on that scale.
        """
        return progress(self.folder, group)

    @property
    def stats(self) -> SpoolStats:
        """
        What has become of entries so far.
        """
        with self._changed:
            consumers = list(self._consumers.values())
            now = self._stats.copy()
        for consumer in consumers:
            now.add(consumer)
        segments = list_segments(self.folder)
        now.segments = len(segments)
        now.size = sum(segment.size() for segment in segments)
        return now

    def close(self) -> None:
        """
        Bring all to the disk and let go; whoever waits in `append` is let go too.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            consumers = list(self._consumers.values())
        for consumer in consumers:
            consumer.close()
        if self._writer is not None and self._syncer is not None:
            with self._changed:
                self._writer.end_segment()
            self._syncer.close()
        if self._held is not None:
            self._held.close()

    def _note(self, consumer: SpoolConsumer) -> None:
        """
        Keep what a consumer that leaves has counted.
        """
        with self._changed:
            if self._consumers.get(consumer.group) is consumer:
                del self._consumers[consumer.group]
            self._stats.add(consumer)

    def _drop(self, why: str, count: int) -> None:
        self._stats.dropped.setdefault(why, Amount()).add(1, count)
        text = "spool %s: entries are dropped: %s"
        self._rare.log(logging.WARNING, text, self.name, why, kind=why)

    def _claim(self) -> Writer:
        if self._closed:
            raise LogUnavailableError(f"spool {self.name}: it is closed")
        if self._writer is not None:
            if self._pid != os.getpid():
                raise DeclarationError(
                    f"spool {self.name}: it was opened in another process; make one "
                    "in each process"
                )
            return self._writer
        syncer = held = None
        try:
            held = FileLock(self.folder / "writer.lock")
            syncer = Syncer(self.folder, self._sync_every, self._sync_failed)
            floors = read_floors(self.folder, self._forget_after)
            floor = max([(1, 0), *floors])
            self._writer = Writer(self.folder, self._segment_size, syncer, floor)
        except OSError as error:
            for each in (syncer, held):
                if each is not None:
                    each.close()
            taken = isinstance(error, BlockingIOError)
            raise LogUnavailableError(
                f"spool {self.name}: {'it is written by another' if taken else error}"
            ) from error
        self._held, self._syncer, self._pid = held, syncer, os.getpid()
        self._stats.cut += self._writer.cut
        self._size = sum(each.size() for each in list_segments(self.folder))
        return self._writer

    def _append(
        self,
        writer: Writer,
        names: tuple[bytes, bytes],
        buffers: Sequence[memoryview],
        crc: int,
        count: int,
    ) -> str:
        """
        Append an entry; say why not, if it is not.
        """
        size = sum(each.nbytes for each in buffers)
        whole = HEADER_SIZE + size + sum(map(len, names))
        if size > LONGEST or whole > self._max_size:
            return "size"
        while True:
            if not self._make_room(whole):
                return "full"
            try:
                self._size += writer.append(names, buffers, crc, count)
                break
            except OSError as error:
                self._rare.log(logging.ERROR, "spool %s: %s", self.name, error)
                if not self._recovered(writer, error):
                    return "disk"
        self._stats.appended.add(1, count)
        self._changed.notify_all()
        return ""

    def _recovered(self, writer: Writer, error: OSError) -> bool:
        """
        Do what the policy allows when the disk takes no more; say whether to go on.
        """
        if error.errno == errno.EFBIG and writer.begun:
            writer.end_segment()
            return True
        if self._when_full == "drop-oldest":
            return self._drop_oldest()
        return self._when_full == "block" and self._wait()

    def _make_room(self, whole: int) -> bool:
        while self._size + whole > self._max_size:
            now = time.monotonic()
            if self._when_full == "drop-newest" and now - self._looked < _AGAIN:
                return False
            self._looked = now
            clean(self.folder, self._forget_after)
            self._size = sum(each.size() for each in list_segments(self.folder))
            if self._size + whole <= self._max_size:
                break
            if self._when_full == "drop-newest":
                return False
            if self._when_full == "block" and not self._wait():
                return False
            if self._when_full == "drop-oldest" and not self._drop_oldest():
                return False
        return True

    def _wait(self) -> bool:
        """
        Let readers and others have a turn; say whether the spool is still open.
        """
        self._changed.wait(_AGAIN)
        return not self._closed

    def _drop_oldest(self) -> bool:
        """
        Give up the oldest segment; say whether there was one.
        """
        segments = list_segments(self.folder)
        if len(segments) == 1 and self._writer is not None and self._writer.begun:
            self._writer.end_segment()
        elif len(segments) < 2:
            return False
        text = "spool %s: the oldest entries are dropped to make room"
        self._rare.log(logging.WARNING, text, self.name)
        with contextlib.suppress(OSError):
            self._size -= remove(segments[0])
        return True

    def _sync_failed(self, error: OSError) -> None:
        """
        Write nothing behind what may not have come to the disk.
        """
        self._rare.log(logging.ERROR, "spool %s: %s", self.name, error)
        with self._changed:
            if self._writer is not None:
                self._writer.end_segment()


def _encoded(text: str) -> bytes:
    """
    Give text as bytes; a path may hold some that are no text.
    """
    return text.encode("utf-8", "surrogateescape")
