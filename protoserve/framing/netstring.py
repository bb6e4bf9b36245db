"""
Netstrings: decimal length, colon, bytes, comma.
"""

from __future__ import annotations

import attrs

from protoserve.framing.base import DEFAULT_MAX_SIZE, Framer, Framing
from protoserve.framing.checks import check_size, positive
from protoserve.framing.decimal_framer import DecimalFramer

__all__ = ["Netstring"]


@attrs.frozen(kw_only=True)
class Netstring(Framing):
    """
    D. J. Bernstein's netstrings, as in SCGI.

    ::

        Netstring()

        frame (12 bytes)            stream (16 bytes)
        +----------------+          +-------+----------------+-----+
        | "HELLO, WORLD" |   <-->   | "12:" | "HELLO, WORLD" | "," |
        +----------------+          +-------+----------------+-----+

    Source:
        https://cr.yp.to/proto/netstrings.txt; a length has no leading zeros.

    >>> Netstring().encode(b"HELLO, WORLD")
    b'12:HELLO, WORLD,'
    """

    max_size: int = attrs.field(default=DEFAULT_MAX_SIZE, validator=positive)
    """The longest frame allowed, in bytes."""

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return DecimalFramer(self.max_size, b":", b",", least=0)

    def encode(self, frame: bytes) -> bytes:
        """
        Put the length before the frame and a comma after it.
        """
        check_size(len(frame), self.max_size)
        return b"%d:%b," % (len(frame), frame)
