"""
Octet counting, as syslog does it on streams: decimal length, space, bytes.
"""

from __future__ import annotations

import attrs

from protoserve.framing.base import Framer, Framing
from protoserve.framing.checks import check_size, positive, unfit
from protoserve.framing.decimal_framer import DecimalFramer

__all__ = ["OctetCounted"]

# syslog-ng's log-msg-size; RFC 5425 section 4.3.1 asks receivers for 8192
_MAX_SIZE = 1 << 16


@attrs.frozen(kw_only=True)
class OctetCounted(Framing):
    """
    A decimal count, a space, and as many bytes.

    ::

        OctetCounted()

        frame (12 bytes)            stream (15 bytes)
        +----------------+          +-------+----------------+
        | "HELLO, WORLD" |   <-->   | "12 " | "HELLO, WORLD" |
        +----------------+          +-------+----------------+

    Source:
        RFC 6587 section 3.4.1; a count starts with a digit that is not 0, so
        there are no empty frames.

    >>> OctetCounted().encode(b"HELLO, WORLD")
    b'12 HELLO, WORLD'
    """

    max_size: int = attrs.field(default=_MAX_SIZE, validator=positive)
    """The longest frame allowed, in bytes."""

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return DecimalFramer(self.max_size, b" ", b"", least=1)

    def encode(self, frame: bytes) -> bytes:
        """
        Put the count before the frame.
        """
        if not frame:
            unfit("at least 1 byte", "0 bytes")
        check_size(len(frame), self.max_size)
        return b"%d %b" % (len(frame), frame)
