"""
The readers of a spool: one consumer for each group.

Everything of a group is dealt with up to its floor. Acknowledgements may come in any
order; what is behind one that is still missing is given again after a restart, and
known by its id. In the same way entries that are lost count as such for good when the
floor has passed them; before that they stand beside it, as the next reader will find them
once more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from protoserve.errors import DeclarationError
from protoserve.rarelog import RareLog
from protoserve.telemetry.floors import Bookmark, clean
from protoserve.telemetry.locks import FileLock
from protoserve.telemetry.logs.base import Entry, LogUnavailableError
from protoserve.telemetry.segments import list_segments
from protoserve.telemetry.spoolstats import Amount
from protoserve.telemetry.trail import End, Gap, Trail

__all__ = ["SpoolConsumer"]

logger = logging.getLogger("protoserve")

_POLL = 0.02
"""Seconds between two looks at what another process may have written."""
_TAKEN = 1 << 25
"""Bytes that are given at once, unless the first entry alone has more."""
_WINDOW = 100_000
"""Entries that may be out at a time; then acknowledgements have to come first."""
_TIDY = 0.2
"""Seconds between two looks for segments with which all are done."""
_SEEN = 60.0
"""Seconds between two notes that a group is still there."""


@attrs.frozen
class _Out:
    """
    An entry that was given, and is not acknowledged.
    """

    before: int
    time: float
    size: int
    count: int


class SpoolConsumer:
    """
    The one reader of a group of a spool; `Spool.consume` makes it.
    """

    def __init__(
        self,
        folder: Path,
        group: str,
        *,
        forget_after: float,
        appended: threading.Condition,
        left: Callable[[SpoolConsumer], None],
    ) -> None:
        name = urllib.parse.quote(group, safe="")
        if not 0 < len(name) <= 200:
            raise DeclarationError(f"group {group!r}: expected 1 to 200 characters")
        self.group = group
        self.acknowledged = Amount()
        self.lost = {"full": Amount(), "damaged": Amount()}
        """What this group has not had and never will."""
        self._folder = folder
        self._forget_after = forget_after
        self._appended = appended
        self._left = left
        self._lock = threading.RLock()
        self._out: dict[int, _Out] = {}
        self._gaps: deque[Gap] = deque()
        self._rare = RareLog(logger, 60.0)
        self._cleaned = (0.0, 0)
        self._closed = False
        groups = folder / "groups"
        try:
            groups.mkdir(parents=True, exist_ok=True)
            self._held = FileLock(groups / f"{name}.lock")
        except BlockingIOError:
            raise LogUnavailableError(
                f"spool {folder}: group {group!r} has a reader already"
            ) from None
        except OSError as error:
            raise LogUnavailableError(f"spool {folder}: {error}") from error
        try:
            self._bookmark = Bookmark(groups / f"{name}.floor")
        except OSError as error:
            self._held.close()
            raise LogUnavailableError(f"spool {folder}: {error}") from error
        self._trail = self._begin()
        self._end = End(folder)
        self._save()

    @property
    def damaged(self) -> int:
        """
        How many damaged places were passed over.
        """
        return self._trail.damaged

    @property
    def cut(self) -> int:
        """
        How many segments had an end that was not whole.
        """
        return self._trail.cut

    def take(self, most: int, timeout: float) -> list[Entry]:
        """
        Give the next entries, at most so many and some 32 MiB; none after `timeout` s.

        Raises:
            LogUnavailableError: the spool cannot be read.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                try:
                    entries = [] if self._closed else self._read(most)
                except OSError as error:
                    raise LogUnavailableError(
                        f"spool {self._folder}: {error}"
                    ) from error
            left = deadline - time.monotonic()
            if entries or left <= 0 or self._closed:
                return entries
            with self._appended:
                self._appended.wait(min(left, _POLL))

    def ack(self, entries: Sequence[Entry]) -> None:
        """
        Say that entries are dealt with for good, in any order.
        """
        with self._lock:
            if self._closed:
                return
            for entry in entries:
                if self._out.pop(entry.sequence, None) is not None:
                    self.acknowledged.add(1, entry.count)
            self._save()
            self._tidy()

    def seek(self, *, sequence: int | None = None, time: float | None = None) -> None:
        """
        Have the group go on from an entry, or from a moment (seconds since the epoch).

        What is no more there is passed over, and does not count as lost.
        """
        if (sequence is None) == (time is None):
            raise DeclarationError("seek: expected a sequence or a time, and not both")
        with self._lock:
            self._out.clear()
            self._gaps.clear()
            if sequence is not None:
                self._trail.go(sequence)
            elif time is not None:
                self._trail.go_to_time(int(time * 1e9))
            self._save()

    def lag(self) -> int:
        """
        Say how many entries the group has yet to deal with.

        What is gone by now counts as lost from here on, though nobody has read so far.
        """
        with self._lock:
            if self._closed:
                return len(self._out)
            self._pass_gone()
            unread = self._end.sequence() - self._trail.start()
            return max(unread, 0) + len(self._out)

    def lag_bytes(self) -> int:
        """
        Say how many bytes of the spool the group has yet to deal with.
        """
        with self._lock:
            return self._trail.left() + sum(out.size for out in self._out.values())

    def oldest(self) -> float:
        """
        Say how many seconds ago the oldest entry came that is not dealt with, or 0.
        """
        with self._lock:
            for out in self._out.values():
                return max(time.time() - out.time, 0.0)
            head = None if self._closed else self._trail.peek()
            return max(time.time() - head.time / 1e9, 0.0) if head else 0.0

    def close(self) -> None:
        """
        Leave the group; what was not acknowledged is given to the next reader.
        """
        with self._lock:
            if self._closed:
                return
            with contextlib.suppress(OSError):
                self._pass_gone()
                self._give_up()
            self._save()
            with contextlib.suppress(OSError):
                self._tidy(0.0)
            self._closed = True
            self._trail.close()
            self._end.close()
            self._bookmark.close()
            self._held.close()
        self._left(self)

    def _begin(self) -> Trail:
        """
        Go on where the group is; a new one begins with the oldest entry.
        """
        floor, before = self._bookmark.floor, self._bookmark.before
        if floor:
            return Trail(self._folder, floor, before)
        trail = Trail(self._folder, 1, 0)
        if segments := list_segments(self._folder):
            trail.go(segments[0].first)
            if (head := trail.peek()) is not None:
                trail.close()
                return Trail(self._folder, head.sequence, head.before)
        return trail

    def _pass_gone(self) -> None:
        before = self._trail.sequence
        gap = self._trail.pass_gone()
        if gap is None:
            return
        last = self._gaps[-1] if self._gaps else None
        if last is not None and (last.end, last.why) == (before, gap.why):
            # Nothing was read between them: they are one, however many there will be.
            gap.missing.add(last.missing.entries, last.missing.count)
            self._gaps.pop()
        self._gaps.append(gap)
        self._save()

    def _give_up(self) -> None:
        """
        Count as lost what was given, is not acknowledged, and is no more there.
        """
        segments = list_segments(self._folder)
        for sequence in [*reversed(self._out)] if segments else ():
            if sequence < segments[0].first:
                out = self._out.pop(sequence)
                self._gaps.appendleft(Gap(sequence + 1, "full", Amount(1, out.count)))

    def _save(self) -> None:
        floor, before = self._trail.sequence, self._trail.before
        for sequence, out in self._out.items():
            floor, before = sequence, out.before
            break
        # Before the floor has passed it, the next reader would count it too.
        lost = self._bookmark.lost
        while self._gaps and self._gaps[0].end <= floor:
            gap = self._gaps.popleft()
            lost += gap.missing.count
            self.lost[gap.why].add(gap.missing.entries, gap.missing.count)
        self._seen = time.monotonic()
        try:
            ahead = sum(gap.missing.count for gap in self._gaps)
            self._bookmark.save(floor, before, lost, ahead)
        except OSError as error:
            # Then entries are delivered again after a restart, and known by their ids.
            text = "spool %s: how far group %s is cannot be kept: %s"
            self._rare.log(logging.WARNING, text, self._folder, self.group, error)

    def _read(self, most: int) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        most = min(most, _WINDOW - len(self._out))
        while len(entries) < most and size < _TAKEN:
            try:
                found = self._trail.next()
            except OSError:
                if not entries:
                    raise
                break  # what was read has to be given; the next call raises
            if found is None:
                break
            entry = found.entry
            self._out[entry.sequence] = _Out(
                found.before, entry.time, found.size, entry.count
            )
            if self._trail.gap is not None:
                self._gaps.append(self._trail.gap)
            entries.append(entry)
            size += found.size
        if self._gaps or time.monotonic() - self._seen > _SEEN:
            self._save()
        self._tidy()
        return entries

    def _tidy(self, pause: float = _TIDY) -> None:
        """
        Delete what all are done with, if this group has come on since the last time.
        """
        came, floor = self._cleaned
        now = time.monotonic()
        if floor != self._bookmark.floor and now - came >= pause:
            self._cleaned = (now, self._bookmark.floor)
            clean(self._folder, self._forget_after)
