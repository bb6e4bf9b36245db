"""
HDLC-like framing on byte streams: flags, escapes and a frame check sequence.
"""

from __future__ import annotations

import re

import attrs

from protoserve.checksums import crc16_x25
from protoserve.framing.base import Framer, Framing
from protoserve.framing.checks import (
    check_size,
    checksum,
    checksum_size,
    known_size,
    pack_checksum,
    positive,
    unfit,
)
from protoserve.framing.stuffed_framer import StuffedFramer
from protoserve.types import ChecksumFunction

__all__ = ["Hdlc"]

# PPP's default of 1500 bytes of information (RFC 1661 section 6.1), after
# address, control and protocol
_MAX_SIZE = 1504

_FLAG = b"\x7e"
_ESCAPE = b"\x7d"
_SPECIAL = re.compile(rb"[\x7d\x7e]")
_PAIR = re.compile(rb"\x7d(.)", re.DOTALL)


@attrs.frozen(kw_only=True)
class Hdlc(Framing):
    """
    A flag, the frame and its checksum with flags and escapes replaced, a flag.

    ::

        Hdlc()

        frame (12 bytes)         stream (16 bytes)
        +----------------+       +------+----------------+--------+------+
        | "HELLO, WORLD" | <-->  | 0x7e | "HELLO, WORLD" | 0x666a | 0x7e |
        +----------------+       +------+----------------+--------+------+
                                  flag                     FCS     flag

        between the flags   0x7e  <-->  0x7d5e
                            0x7d  <-->  0x7d5d

    What comes before the first flag, pieces too short for a checksum, and frames
    that the sender aborted with an escape and a flag are counted, by their bytes,
    in `Framer.discarded`. A frame with a wrong checksum is dropped and counted in
    `Framer.corrupted`. One flag may stand between two frames.

    Source:
        RFC 1662: section 4 for the stuffing, appendix C for the FCS, which is
        sent with its lowest byte first.

    >>> Hdlc().encode(b"HELLO, WORLD").hex(" ")
    '7e 48 45 4c 4c 4f 2c 20 57 4f 52 4c 44 66 6a 7e'
    """

    crc: ChecksumFunction | None = attrs.field(default=crc16_x25, validator=checksum)
    """The checksum: `crc16_x25` is FCS-16, `crc32` is FCS-32; None for none."""
    crc_size: int = attrs.field(validator=checksum_size("crc"))
    """How many bytes it takes; known for those of `protoserve.checksums`."""
    max_size: int = attrs.field(default=_MAX_SIZE, validator=positive)
    """The longest frame allowed, in bytes; the checksum does not count."""

    @crc_size.default
    def _known_size(self) -> int:
        return known_size(self.crc)

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return _HdlcFramer(self)

    def encode(self, frame: bytes) -> bytes:
        """
        Append the checksum, replace flags and escapes, and add the flags.
        """
        if not frame:
            unfit("at least 1 byte", "0 bytes")
        check_size(len(frame), self.max_size)
        if self.crc is not None:
            frame += pack_checksum(self.crc(frame), self.crc_size, "little")
        stuffed = _SPECIAL.sub(lambda m: bytes((0x7D, m[0][0] ^ 0x20)), frame)
        return b"".join((_FLAG, stuffed, _FLAG))


class _HdlcFramer(StuffedFramer):
    def __init__(self, framing: Hdlc) -> None:
        self._crc = framing.crc
        self._crc_size = framing.crc_size
        longest = 2 * (framing.max_size + framing.crc_size)
        super().__init__(
            framing.max_size,
            _FLAG,
            longest=longest,
            escape=_ESCAPE,
            trailer=framing.crc_size,
        )
        self._open = False
        """Whether a flag has been seen."""

    def decode(self) -> bytes | None:
        if not self._open:
            start = self._start
            at = self._data.find(_FLAG, start)
            self._open = at >= 0
            end = at if at >= 0 else len(self._data)
            self.discarded += end - start
            self._start = end
        return super().decode()

    def _unstuff(self, stuffed: bytes) -> bytes | None:
        size = self._crc_size
        whole = stuffed
        if _ESCAPE in stuffed:
            whole = _PAIR.sub(lambda m: bytes((m[1][0] ^ 0x20,)), stuffed)
        if stuffed.endswith(_ESCAPE) or len(whole) <= size:
            self.discarded += len(stuffed)
            return None
        if self._crc is None:
            return whole
        frame = whole[:-size]
        if int.from_bytes(whole[-size:], "little") != self._crc(frame):
            self.corrupted += 1
            return None
        return frame
