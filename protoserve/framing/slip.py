"""
SLIP: frames between END bytes on a serial line.
"""

from __future__ import annotations

import attrs

from protoserve.framing.base import Framer, Framing
from protoserve.framing.checks import check_size, positive, unfit
from protoserve.framing.stuffed_framer import StuffedFramer

__all__ = ["Slip"]

# the longest IP packet; Berkeley's implementation stopped at 1006
_MAX_SIZE = (1 << 16) - 1

_END = b"\xc0"
_ESC = b"\xdb"
_ESC_END = b"\xdb\xdc"
_ESC_ESC = b"\xdb\xdd"


@attrs.frozen(kw_only=True)
class Slip(Framing):
    r"""
    END, the frame with END and ESC replaced, END.

    ::

        Slip()

        frame (12 bytes)            stream (14 bytes)
        +----------------+          +------+----------------+------+
        | "HELLO, WORLD" |   <-->   | 0xc0 | "HELLO, WORLD" | 0xc0 |
        +----------------+          +------+----------------+------+

        inside a frame      0xc0  <-->  0xdbdc
                            0xdb  <-->  0xdbdd

    The first END ends what line noise may have begun; ENDs in a row are ignored,
    so there are no empty frames. A frame with any other byte after an ESC is
    dropped and counted in `Framer.corrupted`.

    Source:
        RFC 1055.

    >>> Slip().encode(b"HELLO, \xc0").hex(" ")
    'c0 48 45 4c 4c 4f 2c 20 db dc c0'
    """

    max_size: int = attrs.field(default=_MAX_SIZE, validator=positive)
    """The longest frame allowed, in bytes; replaced bytes count once."""

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return _SlipFramer(self.max_size, _END, longest=2 * self.max_size, escape=_ESC)

    def encode(self, frame: bytes) -> bytes:
        """
        Replace END and ESC, and put an END before and after the frame.
        """
        if not frame:
            unfit("at least 1 byte", "0 bytes")
        check_size(len(frame), self.max_size)
        stuffed = frame.replace(_ESC, _ESC_ESC).replace(_END, _ESC_END)
        return b"".join((_END, stuffed, _END))


class _SlipFramer(StuffedFramer):
    def _unstuff(self, stuffed: bytes) -> bytes | None:
        escapes = stuffed.count(_ESC)
        if escapes != stuffed.count(_ESC_END) + stuffed.count(_ESC_ESC):
            self.corrupted += 1
            return None
        return stuffed.replace(_ESC_END, _END).replace(_ESC_ESC, _ESC)
