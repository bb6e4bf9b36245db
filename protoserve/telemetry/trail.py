"""
A way through a spool, from segment to segment.

Any process may read, while the writer writes: whole frames only ever come behind what
is there, and a segment is at its end when a newer one exists.

Sequences that are missing were lost. Within a segment, and behind one that is still
there, that is damage; where the segments in between are gone, the spool was full and
made room, for that begins with the oldest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import attrs

from protoserve.telemetry.reader import Found, Head, Reader
from protoserve.telemetry.segments import Segment, list_segments, move_aside
from protoserve.telemetry.spoolstats import Amount

__all__ = ["End", "Gap", "Trail"]


@attrs.frozen
class Gap:
    """
    Entries that are missing.
    """

    end: int
    """The sequence of the entry behind them."""
    why: str
    """``full`` or ``damaged``."""
    missing: Amount


class Trail:
    """
    Reads the entries of a spool in order.

    Args:
        folder: the spool's.
        sequence: where to begin; if it is no more there, what is missing is lost.
        before: the sum of all counts before that entry.
    """

    def __init__(self, folder: Path, sequence: int, before: int) -> None:
        self.sequence = sequence
        """The next entry's."""
        self.before = before
        """The sum of all counts before the next entry."""
        self.gap: Gap | None = None
        """What is missing before the entry that was given last."""
        self.cut = 0
        """How many segments had an end that was not whole."""
        self._folder = folder
        self._reader: Reader | None = None
        self._done: Segment | None = None
        self._damaged = 0
        self._why = "full"
        self._anywhere = False

    @property
    def damaged(self) -> int:
        """
        How often something had to be skipped.
        """
        return self._damaged + (self._reader.damaged if self._reader else 0)

    @property
    def segment(self) -> Segment | None:
        """
        The segment that is read.
        """
        return self._reader.segment if self._reader else None

    def close(self) -> None:
        """
        Close what is open; reading goes on as after `go`.
        """
        if self._reader is not None:
            self._damaged += self._reader.damaged
            self._reader.close()
        self._reader = self._done = None

    def go(self, sequence: int) -> None:
        """
        Go on from an entry, or from the first behind it that is there.
        """
        self.close()
        self.sequence, self._anywhere = sequence, True

    def go_to_time(self, time: int) -> None:
        """
        Go on from the first entry of a moment, in nanoseconds since the epoch, or later.
        """
        start = 0
        for segment in list_segments(self._folder):
            if (head := self._first_head(segment)) is not None and head.time > time:
                break
            start = segment.first
        scout = Trail(self._folder, start, 0)
        try:
            while (found := scout.next()) is not None:
                if found.entry.time * 1e9 >= time:
                    break
            self.go(found.entry.sequence if found else scout.sequence)
        finally:
            scout.close()

    def next(self) -> Found | None:
        """
        Give the next entry; `None` if there is none yet.

        Raises:
            OSError: the newest segment cannot be read.
        """
        while (reader := self._reader or self._open()) is not None:
            try:
                found = reader.next()
                if found is None:
                    if not self._is_over(reader.segment):
                        return None
                    # It may have come since, but not after the newer segment did.
                    found = reader.next()
            except OSError as error:
                if not self._is_over(reader.segment):
                    raise
                self._leave(reader, whole=True)
                move_aside(reader.segment.path, error)
                continue
            if found is None:
                self._leave(reader, whole=reader.left() == 0)
            elif found.entry.sequence >= self.sequence:
                self._pass(found)
                return found
        return None

    def peek(self) -> Head | None:
        """
        Tell of the next entry, if it is there.
        """
        while (reader := self._reader or self._open()) is not None:
            head = reader.peek()
            if head is not None and head.sequence < self.sequence:
                reader.skip()
            elif head is not None or not self._is_over(reader.segment):
                return head
            elif reader.left():
                return None  # damage; whoever reads on passes over it
            else:
                self._leave(reader, whole=True)
        return None

    def pass_gone(self) -> Gap | None:
        """
        Pass over what has made room, with the oldest segments, and tell how much it was.

        What was read ahead of it is not given any more.
        """
        segments = list_segments(self._folder)
        if self._anywhere or not segments or segments[0].first <= self.sequence:
            return None
        head = self._first_head(segments[0])
        if head is None or head.sequence != segments[0].first:
            return None  # whoever reads on sees what there is
        self.close()
        count = max(head.before - self.before, 0)
        missing = Amount(head.sequence - self.sequence, count)
        self.sequence, self.before = head.sequence, head.before
        return Gap(head.sequence, "full", missing)

    def start(self) -> int:
        """
        Give the sequence of the next entry, as far as the segments' names tell.
        """
        segments = list_segments(self._folder)
        return max(self.sequence, segments[0].first if segments else 0)

    def left(self) -> int:
        """
        Say how many bytes are behind the next entry's beginning, roughly.
        """
        segments = list_segments(self._folder)
        now = self.segment or self._find(segments)
        later = [each for each in segments if now and each.number > now.number]
        here = self._reader.left() if self._reader else now.size() if now else 0
        return here + sum(each.size() for each in later)

    def _pass(self, found: Found) -> None:
        entry = found.entry
        self.gap = None
        if entry.sequence > self.sequence and not self._anywhere:
            count = max(found.before - self.before, 0)
            missing = Amount(entry.sequence - self.sequence, count)
            self.gap = Gap(entry.sequence, self._why, missing)
        self._anywhere, self._why = False, "damaged"
        self.sequence = entry.sequence + 1
        self.before = found.before + entry.count

    def _open(self) -> Reader | None:
        while (segment := self._find(list_segments(self._folder))) is not None:
            gone = self._done is None or not self._done.path.exists()
            try:
                self._reader = Reader(segment)
            except FileNotFoundError:
                continue  # it went since it was listed; others are listed next
            except OSError as error:
                if not self._is_over(segment):
                    raise
                move_aside(segment.path, error)
                self._done = segment
                continue
            self._why = "full" if gone else "damaged"
            if self._done is not None:
                # Entries that were read may be gone with the power, and their
                # numbers given to others by a writer that began anew.
                self.sequence = min(self.sequence, segment.first)
            self._done = None
            return self._reader
        return None

    def _find(self, segments: Sequence[Segment]) -> Segment | None:
        if self._done is not None:
            later = (each for each in segments if each.number > self._done.number)
            return next(later, None)
        up_to = [each for each in segments if each.first <= self.sequence]
        return up_to[-1] if up_to else next(iter(segments), None)

    def _is_over(self, segment: Segment) -> bool:
        """
        Say whether a segment is not written any more.
        """
        segments = list_segments(self._folder)
        return bool(segments) and segments[-1].number > segment.number

    def _leave(self, reader: Reader, *, whole: bool) -> None:
        self.cut += not whole
        self._damaged += reader.damaged
        reader.close()
        self._reader, self._done = None, reader.segment

    def _first_head(self, segment: Segment) -> Head | None:
        try:
            reader = Reader(segment)
        except OSError:
            return None
        try:
            return reader.peek()
        finally:
            reader.close()


class End:
    """
    Finds the end of a spool that another process writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader: Reader | None = None
        self._sequence = 0

    def sequence(self) -> int:
        """
        Give the sequence of the entry that will be the next.
        """
        newest = list_segments(self._folder)[-1:]
        if not newest:
            return self._sequence
        reader = self._reader
        try:
            if reader is None or reader.segment != newest[0]:
                self.close()
                reader = self._reader = Reader(newest[0])
                self._sequence = max(newest[0].first, self._sequence)
            while (head := reader.skip()) is not None:
                self._sequence = max(head.sequence + 1, self._sequence)
        except OSError:
            os.stat(self._folder)  # noqa: PTH116 - tells a folder that is gone
        return self._sequence

    def close(self) -> None:
        """
        Close what is open.
        """
        if self._reader is not None:
            self._reader.close()
            self._reader = None
