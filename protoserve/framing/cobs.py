"""
COBS: a zero ends each frame, and at most one byte in 254 is added to keep zeros
out of it.
"""

from __future__ import annotations

import attrs

from protoserve.framing.base import DEFAULT_MAX_SIZE, Framer, Framing
from protoserve.framing.checks import check_size, positive
from protoserve.framing.stuffed_framer import StuffedFramer

__all__ = ["Cobs"]

_ZERO = b"\0"
_FULL = 254
"""Bytes in a block that no zero ends."""


@attrs.frozen(kw_only=True)
class Cobs(Framing):
    r"""
    Blocks that each start with the distance to the next zero, then a zero.

    ::

        Cobs()

        frame (12 bytes)            stream (14 bytes)
        +----------------+          +------+----------------+------+
        | "HELLO, WORLD" |   <-->   | 0x0d | "HELLO, WORLD" | 0x00 |
        +----------------+          +------+----------------+------+

        frame (13 bytes)            stream (15 bytes)
        +---------+------+---------+      +------+---------+------+---------+------+
        | "HELLO" | 0x00 | "WORLD" | <--> | 0x06 | "HELLO" | 0x06 | "WORLD" | 0x00 |
        +---------+------+---------+      +------+---------+------+---------+------+

    Zeros in a row are ignored. A frame whose blocks run past its end is dropped
    and counted in `Framer.corrupted`.

    Source:
        S. Cheshire and M. Baker, Consistent Overhead Byte Stuffing, IEEE/ACM
        Transactions on Networking 7 (1999).

    >>> Cobs().encode(b"HELLO\0WORLD").hex(" ")
    '06 48 45 4c 4c 4f 06 57 4f 52 4c 44 00'
    """

    max_size: int = attrs.field(default=DEFAULT_MAX_SIZE, validator=positive)
    """The longest frame allowed, in bytes, before stuffing."""

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        # one code for the first byte, one for each full block, and one that
        # some encoders put after a last full block
        longest = self.max_size + self.max_size // _FULL + 1
        return _CobsFramer(self.max_size, _ZERO, longest=longest)

    def encode(self, frame: bytes) -> bytes:
        """
        Stuff the frame and put a zero after it.
        """
        check_size(len(frame), self.max_size)
        stuffed = bytearray()
        runs = frame.split(_ZERO)
        last = len(runs) - 1
        for i, run in enumerate(runs):
            at = 0
            while len(run) - at >= _FULL:
                stuffed.append(_FULL + 1)
                stuffed += run[at : at + _FULL]
                at += _FULL
            # a full block at the very end needs no empty one after it
            if i < last or at < len(run) or not run:
                stuffed.append(len(run) - at + 1)
                stuffed += run[at:]
        return bytes(stuffed + _ZERO)


class _CobsFramer(StuffedFramer):
    def _unstuff(self, stuffed: bytes) -> bytes | None:
        blocks = []
        at, size = 0, len(stuffed)
        while at < size:
            after = at + stuffed[at]
            if after > size:
                self.corrupted += 1
                return None
            blocks.append(stuffed[at + 1 : after])
            if after - at <= _FULL and after < size:
                blocks.append(_ZERO)
            at = after
        return b"".join(blocks)
