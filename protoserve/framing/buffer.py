"""
The unread bytes of one stream, and what all framers do with them.

A server reads some dozen small frames at once, so the usual buffer is the very
`bytes` object that was fed, and frames are cut from it in place. Only when an
unfinished frame is longer than what follows it does the buffer become a
`bytearray` that grows. Every byte is copied a bounded number of times, however
the stream is split:

- joining what is left to the new bytes copies at most twice the new bytes;
- the `bytearray` grows by amortised steps;
- its consumed front is deleted when it is longer than the rest, so that each
  byte moved is paid for by a byte consumed.

After an error the buffer is empty and stays so. A framer therefore looks for
the error only where it would ask for more bytes (`_wait`), and the path of a
good frame does not pay for it.
"""

from __future__ import annotations

from typing import NoReturn

from protoserve.errors import (
    CorruptedFrameError,
    FrameTooLongError,
    IncompleteFrameError,
    RemoteProtocolError,
)
from protoserve.framing.base import Framer
from protoserve.framing.diagnosis import SHOWN, diagnose
from protoserve.types import BytesLike

__all__ = ["PORTION", "BufferedFramer"]


PORTION = 64 * 1024
"""Bytes that are cut in place before others have their turn."""


class BufferedFramer(Framer):
    """
    A framer over the shared buffer. Subclass it and implement `decode`.

    For the subclass: the next frame starts at ``_data[_start]``; moving `_start`
    on consumes bytes. ``return self._wait()`` where more bytes are needed,
    ``self._fail(error)`` where the stream is beyond help. Remember places in the
    frame relative to `_start`: feeding may move the bytes.
    """

    _growable = bytearray

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._data: bytes | bytearray = b""
        self._start = 0
        self._passed = 0
        """The stream offset of ``_data[0]``."""
        self._error: RemoteProtocolError | None = None

    def feed(self, data: BytesLike) -> None:
        """
        Take the next bytes of the stream.
        """
        if self._error is not None:
            return
        if type(data) is not bytes:
            data = bytes(data)
        held = self._data
        start = self._start
        rest = len(held) - start
        if not rest:
            self._data = data
        elif len(data) >= rest:
            self._data = b"".join((held[start:], data))
        elif isinstance(held, bytes):
            self._data = self._growable(held[start:])
            self._data += data
        else:
            if start > rest:
                del held[:start]
                self._passed += start
                self._start = 0
            held += data
            return
        self._passed += start
        self._start = 0

    @property
    def buffered(self) -> int:
        """
        How many bytes of the next frame have arrived.
        """
        return len(self._data) - self._start

    def unread(self) -> tuple[bytes, int, int]:
        """
        Show what is to be cut, to who cuts it in place: buffer, start and end.

        That is nothing while the buffer grows. `consume` is told how far it was cut.
        """
        data = self._data
        if type(data) is not bytes:
            return b"", 0, 0
        start = self._start
        return data, start, min(len(data), start + PORTION)

    def consume(self, start: int) -> int:
        """
        Take what stands before a place as cut; give how many bytes are left.
        """
        self._start = start
        return len(self._data) - start

    def end(self) -> bytes | None:
        """
        Tell the framer that the stream has ended.

        Returns:
            `None`.

        Raises:
            IncompleteFrameError: it ended in the middle of a frame.
        """
        if self.buffered:
            found = self._found()
            self._fail(IncompleteFrameError(self.buffered, found, diagnose(found)))
        return self._wait()

    def _wait(self) -> bytes | None:
        """
        Say that more bytes are needed, or that there is no use in more.
        """
        if self._error is not None:
            # without the old traceback, which would grow with each raise
            raise self._error.with_traceback(None)
        return None

    def _found(self) -> bytes:
        return bytes(self._data[self._start : self._start + SHOWN])

    def _fail(
        self, error: RemoteProtocolError, cause: Exception | None = None
    ) -> NoReturn:
        """
        Give up: raise the error, now and ever after.
        """
        self._wait()  # an earlier error stands
        self._error = error
        self._data = b""
        self._start = 0
        raise error from cause

    def _too_long(
        self,
        size: int,
        limit: int,
        at: int = 0,
        swapped: int | None = None,
        note: str | None = None,
    ) -> NoReturn:
        """
        Refuse the frame for its length.

        Args:
            size: the length that was read or reached.
            limit: the largest allowed, counted as `size` is.
            at: where the length was read, from the frame's first byte.
            swapped: the length in the other byte order, if that is a sane one.
            note: what else is known.
        """
        found = self._found()
        why = diagnose(found, swapped, note)
        offset = self._passed + self._start + at
        self._fail(FrameTooLongError(size, limit, offset, found, why))

    def _corrupt(
        self, reason: str, at: int = 0, cause: Exception | None = None
    ) -> NoReturn:
        """
        Refuse the frame as damaged beyond help.
        """
        found = self._found()
        offset = self._passed + self._start + at
        why = diagnose(found, note=reason) or reason
        self._fail(CorruptedFrameError(why, offset, found), cause)
