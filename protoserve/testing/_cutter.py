"""
Frames together with the bytes that they came as.

A framer gives frames without what delimits them, and what is carried on has to be the
very bytes that came: encoded again, they might differ where a protocol has several ways
to write the same. So what a framer has consumed for a frame is kept beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from protoserve.errors import RemoteProtocolError
from protoserve.framing.base import Framer, Framing
from protoserve.framing.buffer import BufferedFramer

__all__ = ["Cutter"]


class Cutter:
    """
    Cuts a stream into frames and keeps the bytes that each came as.

    Bytes that are no frames are kept as well: all those behind a place where the
    stream makes no sense any more.
    """

    def __init__(self, framing: Framing | None) -> None:
        self._framer: Framer | None = None if framing is None else framing.framer()
        self._unread = bytearray()
        """What has been fed and not been given back."""

    def feed(self, data: bytes) -> list[tuple[bytes, tuple[bytes, ...]]]:
        """
        Take the next bytes.

        Returns:
            What is whole now: its bytes, and the frame that they are, if they are one.
        """
        self._unread += data
        framer = self._framer
        if framer is None:
            return self._rest()
        if isinstance(framer, BufferedFramer):
            pieces: Iterable[bytes] = (data,)
        else:  # whose bytes are the last frame's, only feeding them singly tells
            pieces = (data[i : i + 1] for i in range(len(data)))
        found: list[tuple[bytes, tuple[bytes, ...]]] = []
        for piece in pieces:
            framer.feed(piece)
            try:
                while (frame := framer.decode()) is not None:
                    left = framer.buffered if isinstance(framer, BufferedFramer) else 0
                    size = len(self._unread) - left
                    found.append((bytes(self._unread[:size]), (frame,)))
                    del self._unread[:size]
            except RemoteProtocolError:
                self._framer = None
                return found + self._rest()
        return found

    def end(self) -> list[tuple[bytes, tuple[bytes, ...]]]:
        """
        Give what is left when the stream has ended.
        """
        frame = None
        if self._framer is not None:
            with contextlib.suppress(RemoteProtocolError):
                frame = self._framer.end()
        rest = self._rest()
        return [(rest[0][0], (frame,))] if rest and frame is not None else rest

    def _rest(self) -> list[tuple[bytes, tuple[bytes, ...]]]:
        rest = bytes(self._unread)
        self._unread.clear()
        return [(rest, ())] if rest else []
