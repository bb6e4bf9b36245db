r"""
Syslog on streams: octet counting and lines, told apart frame by frame.

RFC 6587 has two framings, and receivers are to take both on one port. A frame that
begins with a count, a space and ``<`` is counted; every other one ends with the line,
or with a NUL, as Python's own handler has it (RFC 6587 section 3.4.2 knows both).
The ``<`` is what each entry with a priority begins with: without it, a line that begins
with a number would be cut by that number, and what follows would be lost.

The cutting is `SelfDelimiting`'s; what is added here is that the count and the line's
end are no part of the entry. They are not in datagrams either.
"""

from __future__ import annotations

import re

import attrs

from protoserve import Framer, Framing, InvalidMessageError, SelfDelimiting

__all__ = ["SyslogFraming"]

_COUNTED = re.compile(rb"([1-9]\d{0,6}) <")
_END = re.compile(rb"[\n\0]")
_PERHAPS_COUNTED = re.compile(rb"[1-9]\d{0,6} ?")


def _size(buffer: bytearray) -> int | None:
    counted = _COUNTED.match(buffer)
    if counted:
        return counted.end() - 1 + int(counted[1])
    if _PERHAPS_COUNTED.fullmatch(buffer):
        return None
    end = _END.search(buffer)
    return None if end is None else end.end()


@attrs.frozen(kw_only=True)
class SyslogFraming(Framing):
    """
    Both framings of RFC 6587; what is sent is counted.

    A frame without a priority cannot be counted, and is sent as a line.
    """

    max_size: int = attrs.field(default=1 << 16, validator=attrs.validators.ge(1))
    """The longest frame, in bytes, what delimits it included."""

    @property
    def _whole(self) -> SelfDelimiting:
        return SelfDelimiting(_size, max_size=self.max_size)

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return _Stripped(self._whole.framer())

    def encode(self, frame: bytes) -> bytes:
        """
        Put the count before the frame, or the line's end behind it.
        """
        if frame.startswith(b"<"):
            return self._whole.encode(b"%d %b" % (len(frame), frame))
        if not frame.rstrip(b"\r\n\0"):
            raise InvalidMessageError("frame", "at least 1 byte", "none")
        return self._whole.encode(frame + b"\n")


class _Stripped(Framer):
    """
    Takes off what delimits the frames of another framer.
    """

    def __init__(self, inner: Framer) -> None:
        self._inner = inner

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._inner.feed(data)

    def decode(self) -> bytes | None:
        while (frame := self._inner.decode()) is not None:
            counted = _COUNTED.match(frame)
            # Empty lines are what some senders put between frames.
            bare = frame[counted.end() - 1 :] if counted else frame.strip(b"\r\n\0")
            if bare:
                return bare
        return None

    @property
    def buffered(self) -> int:
        return self._inner.buffered

    def end(self) -> bytes | None:
        return self._inner.end()
