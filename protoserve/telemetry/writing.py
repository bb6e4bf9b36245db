"""
The end of a spool, where its one writer appends.

An entry is written whole or not at all: what a failed write has left is cut off again.
A writer begins a segment of its own, so the end of the last one, whatever became of it,
is never written behind; what is not whole there is cut off, and counted.

Nothing here is locked, and nothing decides what to do when the disk takes no more: that
is the spool's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from protoserve.telemetry.reader import Reader
from protoserve.telemetry.segments import (
    HEADER_SIZE,
    Segment,
    frame_head,
    list_segments,
    move_aside,
)
from protoserve.telemetry.syncing import Syncer

__all__ = ["Writer"]

logger = logging.getLogger("protoserve")

_AT_ONCE = 1024
"""Buffers that the kernel takes in one call."""


class Writer:
    """
    Appends to the segments of a folder.

    Args:
        folder: the spool's.
        segment_size: bytes of a file before the next is begun.
        syncer: brings files to the disk and closes them.
        floor: the sequence up to which some group is done, and the sum of all counts
            before it: so many were there, whatever the files say.

    Raises:
        OSError: the folder cannot be read.
    """

    def __init__(
        self, folder: Path, segment_size: int, syncer: Syncer, floor: tuple[int, int]
    ) -> None:
        self.sequence, self.before = floor
        """The next entry's, and the sum of all counts before it."""
        self.cut = 0
        """How many segments had an end that was not whole."""
        self._folder = folder
        self._segment_size = segment_size
        self._syncer = syncer
        self._segment: Segment | None = None
        self._file = -1
        self._offset = 0
        segments = list_segments(folder)
        self._number = segments[-1].number if segments else 0
        for segment in reversed(segments):
            self.sequence = max(self.sequence, segment.first)
            if self._scan(segment):
                break

    @property
    def begun(self) -> bool:
        """
        Whether there is something in the segment that is written.
        """
        return self._offset > 0

    def append(
        self,
        names: tuple[bytes, bytes],
        buffers: Sequence[memoryview],
        crc: int,
        count: int,
    ) -> int:
        """
        Append an entry; say how many bytes that took.

        Args:
            names: the entry's key and id.
            buffers: its payload.
            crc: what `payload_crc` gave for it.
            count: what it stands for.

        Raises:
            OSError: it cannot be written, and nothing was.
        """
        size = sum(each.nbytes for each in buffers)
        whole = HEADER_SIZE + size + sum(map(len, names))
        if self._offset and self._offset + whole > self._segment_size:
            self.end_segment()
        segment = self._segment or self._begin_segment()
        place = self.sequence, time.time_ns(), self.before, count
        head = frame_head(segment.mark, crc, size, *names, place)
        self._write([memoryview(head), *buffers])
        self._offset += whole
        self.sequence += 1
        self.before += count
        self._syncer.written(self._file)
        return whole

    def end_segment(self) -> None:
        """
        Begin a new segment with the next entry; the file is closed once it is safe.
        """
        if self._segment is not None:
            self._syncer.done(self._file)
            self._segment, self._file, self._offset = None, -1, 0

    def _begin_segment(self) -> Segment:
        segment = Segment.new(self._folder, self._number + 1, self.sequence)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(segment.path, flags, 0o644)
        self._number += 1
        self._segment, self._offset = segment, 0
        self._syncer.made()
        return segment

    def _write(self, buffers: Sequence[memoryview]) -> None:
        offset = self._offset
        left = list(buffers)
        try:
            while left:
                written = os.pwritev(self._file, left[:_AT_ONCE], offset)
                offset += written
                done = 0
                while done < len(left) and written >= left[done].nbytes:
                    written -= left[done].nbytes
                    done += 1
                del left[:done]
                if written:
                    left[0] = left[0][written:]
        except OSError:
            try:
                os.ftruncate(self._file, self._offset)
            except OSError:
                # Readers pass over what is left of it, at the end of its segment.
                self.end_segment()
            raise

    def _scan(self, segment: Segment) -> bool:
        """
        Look for a segment's last whole entry, and say whether there is any.
        """
        last = None
        try:
            with contextlib.closing(Reader(segment)) as reader:
                while (found := reader.next()) is not None:
                    last = found
                left = reader.left()
            if left and last is not None:
                os.truncate(segment.path, reader.offset)
        except OSError as error:
            move_aside(segment.path, error)
            return False
        self.cut += left > 0
        if left and last is None:
            move_aside(segment.path, "there is no entry in it")
        elif left:
            text = "spool: an end of %d bytes that is not whole is cut off %s"
            logger.warning(text, left, segment.path)
        if last is None:
            return False
        self.sequence = max(self.sequence, last.entry.sequence + 1)
        self.before = max(self.before, last.before + last.entry.count)
        return True
