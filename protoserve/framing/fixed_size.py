"""
Frames that are all of one size.
"""

from __future__ import annotations

import attrs

from protoserve.framing.base import Framer, Framing
from protoserve.framing.buffer import BufferedFramer
from protoserve.framing.checks import positive, unfit

__all__ = ["FixedSize"]


@attrs.frozen
class FixedSize(Framing):
    """
    As many bytes as always.

    ::

        FixedSize(12)

        frames (12 bytes each)                   stream (24 bytes)
        +----------------+----------------+      +--------------------------+
        | "HELLO, WORLD" | "HELLO, WORLD" | <--> | "HELLO, WORLDHELLO, WOR… |
        +----------------+----------------+      +--------------------------+

    >>> framer = FixedSize(12).framer()
    >>> framer.feed(b"HELLO, WORLDHELL")
    >>> framer.decode(), framer.decode(), framer.buffered
    (b'HELLO, WORLD', None, 4)
    """

    size: int = attrs.field(validator=positive)
    """Bytes in a frame."""
    max_size: int = attrs.field(init=False, repr=False, eq=False)
    """The same."""

    @max_size.default
    def _same(self) -> int:
        return self.size

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return _FixedSizeFramer(self.size)

    def encode(self, frame: bytes) -> bytes:
        """
        Check the frame's size.
        """
        if len(frame) != self.size:
            unfit(f"{self.size} bytes", f"{len(frame)} bytes")
        return frame


class _FixedSizeFramer(BufferedFramer):
    def decode(self) -> bytes | None:
        start = self._start
        end = start + self.max_size
        if len(self._data) < end:
            return self._wait()
        frame = self._data[start:end]
        self._start = end
        return frame if type(frame) is bytes else bytes(frame)
