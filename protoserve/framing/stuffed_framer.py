"""
The decoder behind SLIP, COBS and HDLC: a byte that ends a frame and that
stuffing keeps out of it. A damaged frame is dropped: the next mark is a safe
place to go on.
"""

from __future__ import annotations

import abc

from protoserve.framing.buffer import BufferedFramer

__all__ = ["StuffedFramer"]


class StuffedFramer(BufferedFramer):
    """
    Cut at the marks and take the stuffing out.
    """

    def __init__(
        self,
        max_size: int,
        mark: bytes,
        *,
        longest: int,
        escape: bytes | None = None,
        trailer: int = 0,
    ) -> None:
        """
        Make the decoder for a stream.

        Args:
            max_size: the longest frame allowed.
            mark: the byte that ends a frame.
            longest: how long what is between two marks can be, at most.
            escape: the byte that precedes each stuffed one.
            trailer: bytes between two marks that are not the frame's.
        """
        super().__init__(max_size)
        self._mark = mark
        self._longest = longest
        self._escape = escape
        self._trailer = trailer
        self._scanned = 0
        self._escapes = 0

    def decode(self) -> bytes | None:
        """
        Cut off the next whole frame.
        """
        while True:
            start = self._start
            at = self._data.find(self._mark, start + self._scanned)
            if at == start:
                # marks in a row are idle time
                self._start += 1
                continue
            self._check(at if at >= 0 else len(self._data))
            if at < 0:
                return self._wait()
            frame = self._unstuff(bytes(self._data[start:at]))
            if frame is not None and len(frame) > self.max_size:
                self._too_long(len(frame), self.max_size)
            self._start = at + 1
            self._scanned = self._escapes = 0
            if frame is not None:
                return frame

    def _check(self, end: int) -> None:
        """
        Refuse what is too long already, whether or not its mark has come.
        """
        start = self._start
        size = end - start
        over = size - self._longest
        if self._escape is not None:
            self._escapes += self._data.count(self._escape, start + self._scanned, end)
            reached = size - self._escapes - self._trailer
            over = max(over, reached - self.max_size)
        self._scanned = size
        if over > 0:
            self._too_long(self.max_size + over, self.max_size)

    @abc.abstractmethod
    def _unstuff(self, stuffed: bytes) -> bytes | None:
        """
        Give the frame, or count what is wrong with it and give None.
        """
