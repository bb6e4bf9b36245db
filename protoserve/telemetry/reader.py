"""
Reading a segment, while it may still be written.

After damage reading goes on at the next whole frame: one that begins with the segment's
mark, fits into the file, and has the right CRC. What is not whole may become so, as long
as nothing whole is behind it.

Files are read, never mapped: a file that is cut short while it is mapped ends the
process. A large payload is read on its own, into the bytes that are given out.
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from protoserve.telemetry.logs.base import Entry
from protoserve.telemetry.segments import CHECKED, HEADER, Segment, crc32

__all__ = ["Found", "Head", "Reader"]

_AHEAD = 1 << 18
"""Bytes that are read at once while frames are small."""
_SHORT = 1 << 12
"""Bytes that are read at once where frames are large: the payload follows on its own."""
_WINDOW = 1 << 20
"""Bytes that are searched at once for a mark."""


@attrs.frozen
class Head:
    """
    What a frame says before its payload.
    """

    size: int
    """Bytes of the frame."""
    sequence: int
    time: int
    """Nanoseconds since the epoch."""
    before: int
    count: int


@attrs.frozen
class Found:
    """
    A whole frame.
    """

    entry: Entry
    before: int
    """The sum of all counts before this entry's."""
    size: int
    """Bytes of the frame."""


class Reader:
    """
    Reads the frames of a segment in order, while it may still be written.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.offset = 0
        """Where the next frame begins."""
        self.damaged = 0
        """How often something had to be skipped."""
        self._file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = self._seen = os.fstat(self._file).st_size
        self._ahead = _AHEAD
        self._chunk = b""
        self._start = 0
        self._searched = 0

    def close(self) -> None:
        """
        Close the file.
        """
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def next(self) -> Found | None:
        """
        Give the next whole frame; `None` if there is none yet.
        """
        found = self._frame(self.offset)
        if found is None:
            # What was read ahead may have been cut off and written anew since.
            self._chunk = b""
            found = self._frame(self.offset)
        if found is None and not self._is_coming() and self._search() is not None:
            # Frames are written in order, so all before that one are there now; when
            # they were looked for they may not have been, and are not damaged then.
            self._chunk = b""
            found = self._frame(self.offset)
            if found is None and (behind := self._search()) is not None:
                self.offset, found = behind
                self.damaged += 1
        if found is not None:
            self.offset += found.size
            self._ahead = _AHEAD if found.size < _AHEAD >> 2 else _SHORT
        return found

    def skip(self) -> Head | None:
        """
        Pass over the next frame without a look at its payload, if it is there.
        """
        if (head := self.peek()) is not None:
            self.offset += head.size
        elif (found := self.next()) is not None:
            entry = found.entry
            time = int(entry.time * 1e9)
            return Head(found.size, entry.sequence, time, found.before, entry.count)
        return head

    def peek(self) -> Head | None:
        """
        Tell of the next frame, if it is there.
        """
        if (head := self._head(self.offset)) is None:
            return None
        _, _, size, key, name, sequence, time, before, count = head
        whole = HEADER.size + key + name + size
        if not self._has(self.offset + whole):
            return None
        return Head(whole, sequence, time, before, count)

    def left(self) -> int:
        """
        Say how many bytes there are behind what was given.
        """
        return max(os.fstat(self._file).st_size - self.offset, 0)

    def _is_coming(self) -> bool:
        """
        Say whether the next frame seems to be written just now: not all of it is there,
        and nothing was when last looked. By the next look its length may be damaged.
        """
        before, self._seen = self._seen, os.fstat(self._file).st_size
        if before > self.offset or (head := self._head(self.offset)) is None:
            return False
        return bool(self.offset + HEADER.size + sum(head[2:5]) > self._seen)

    def _has(self, end: int) -> bool:
        if end > self._size:
            self._size = os.fstat(self._file).st_size
        return end <= self._size

    def _bytes(self, offset: int, size: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + size > len(self._chunk):
            if size >= self._ahead:
                return os.pread(self._file, size, offset)
            self._chunk = os.pread(self._file, self._ahead, offset)
            self._start, at = offset, 0
        return self._chunk[at : at + size]

    def _head(self, offset: int) -> tuple[Any, ...] | None:
        data = self._bytes(offset, HEADER.size)
        if len(data) < HEADER.size:
            return None
        head = HEADER.unpack(data)
        return head if head[0] == self.segment.mark else None

    def _frame(self, offset: int) -> Found | None:
        if (head := self._head(offset)) is None:
            return None
        mark, crc, size, key, name, sequence, time, before, count = head
        at = offset + HEADER.size
        whole = HEADER.size + key + name + size
        # A length that damage has made huge must not be allocated.
        if not self._has(offset + whole):
            return None
        text = self._bytes(at, key + name)
        payload = self._bytes(at + key + name, size)
        checked = HEADER.pack(*head)[CHECKED:]
        if crc != crc32(text, crc32(checked, crc32(payload))):
            return None
        entry = Entry(
            sequence,
            text[key:].decode("utf-8", "surrogateescape") or f"{mark.hex()}-{sequence}",
            text[:key].decode("utf-8", "surrogateescape"),
            time / 1e9,
            payload,
            count,
        )
        return Found(entry, before, whole)

    def _search(self) -> tuple[int, Found] | None:
        """
        Find the next whole frame behind damage, and where it is.
        """
        at = max(self.offset + 1, self._searched)
        mark = self.segment.mark
        marked = False
        while True:
            window = os.pread(self._file, _WINDOW, at)
            place = window.find(mark)
            while place >= 0:
                marked = True
                if (found := self._frame(at + place)) is not None:
                    return at + place, found
                place = window.find(mark, place + 1)
            if len(window) < _WINDOW:
                break
            at += len(window) - len(mark) + 1
        if not marked:
            self._searched = max(at + len(window) - len(mark) + 1, self._searched)
        return None
