"""
Frames that end with a mark, such as lines.

With several marks the one that is complete first ends the frame, and of those
that end at the same byte the longest. So the outcome does not depend on how the
stream is split, and a mark that holds another before its own end could never be
seen: it is refused.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import attrs

from protoserve.errors import IncompleteFrameError
from protoserve.framing.base import Framer, Framing
from protoserve.framing.buffer import BufferedFramer
from protoserve.framing.checks import check_size, flag, positive, refuse, several, unfit
from protoserve.framing.diagnosis import diagnose

__all__ = ["Delimited"]

# what asyncio's readers allow a line by default
_MAX_SIZE = 1 << 16


def _check_delimiters(owner: Any, attribute: Any, value: Any) -> None:
    name = attribute.name
    if not value:
        refuse(owner, name, "bytes, or a sequence of bytes", value)
    for mark in value:
        if not isinstance(mark, bytes) or not mark:
            refuse(owner, name, "one byte or more", mark)
    for mark in value:
        for other in value:
            if other != mark and other in mark[:-1]:
                expected = f"delimiters that {other!r} does not cut short"
                refuse(owner, name, expected, mark)
    if len(set(value)) < len(value):
        refuse(owner, name, "different delimiters", value)


def _check_escape(owner: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, bytes) or len(value) != 1:
        refuse(owner, attribute.name, "one byte, or None", value)
    if any(value in mark for mark in owner.delimiter):
        refuse(owner, attribute.name, "a byte that is in no delimiter", value)


@attrs.frozen
class Delimited(Framing):
    r"""
    Bytes up to a mark; the frame is what stands before it.

    ::

        Delimited(b"\r\n")

        frame (12 bytes)            stream (14 bytes)
        +----------------+          +----------------+--------+
        | "HELLO, WORLD" |   <-->   | "HELLO, WORLD" | 0x0d0a |
        +----------------+          +----------------+--------+

        Delimited(b",", escape=b"\\")               an escaped mark is content

        +----------------+          +-----------------+-----+
        | "HELLO, WORLD" |   <-->   | "HELLO\, WORLD" | "," |
        +----------------+          +-----------------+-----+

        Delimited((b"\r\n", b"\n"), keep=True)      either ends a line, and is kept

        +----------------+------+          +----------------+------+
        | "HELLO, WORLD" | 0x0a |   <-->   | "HELLO, WORLD" | 0x0a |
        +----------------+------+          +----------------+------+

    Without an escape, a frame that holds a mark cannot be encoded. The escape
    makes the byte after it content, whatever that is. When encoding, it is put
    before itself and before each byte that a mark starts with.

    >>> Delimited(b"\r\n").encode(b"HELLO, WORLD")
    b'HELLO, WORLD\r\n'
    """

    delimiter: tuple[bytes, ...] = attrs.field(
        converter=several, validator=_check_delimiters
    )
    """One delimiter, or several; the first is the one that is sent."""
    escape: bytes | None = attrs.field(
        default=None, kw_only=True, validator=_check_escape
    )
    """The byte that makes the next one content; None if there is no such thing."""
    keep: bool = attrs.field(default=False, kw_only=True, validator=flag)
    """Whether the frame keeps its delimiter, and must have one to be encoded."""
    accept_unterminated: bool = attrs.field(default=False, kw_only=True, validator=flag)
    """
    Whether the end of the stream ends a last frame too, as that of a text file
    does. Otherwise the frame is incomplete.
    """
    max_size: int = attrs.field(default=_MAX_SIZE, kw_only=True, validator=positive)
    """The longest frame allowed, in bytes; escapes and, unless kept, the
    delimiter do not count."""

    @functools.cached_property
    def _marks(self) -> re.Pattern[bytes]:
        longest_first = sorted(self.delimiter, key=len, reverse=True)
        return re.compile(b"|".join(map(re.escape, longest_first)))

    @functools.cached_property
    def _special(self) -> re.Pattern[bytes]:
        special = [mark[:1] for mark in self.delimiter] + [self.escape or b""]
        return re.compile(b"[" + b"".join(map(re.escape, special)) + b"]")

    @property
    def in_frame(self) -> bool:
        """
        Whether the delimiter is a part of the frame, which is to say: kept.
        """
        return self.keep

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        if self.escape is not None:
            return _EscapedFramer(self, self._marks, self.escape)
        if len(self.delimiter) == 1:
            return _PlainFramer(self)
        return _SeveralFramer(self, self._marks)

    def encode(self, frame: bytes) -> bytes:
        """
        Put the delimiter after the frame.
        """
        content, mark = frame, self.delimiter[0]
        if self.keep:
            ends = [mark for mark in self.delimiter if frame.endswith(mark)]
            if not ends:
                unfit("a delimiter at its end", repr(bytes(frame[-16:])))
            mark = max(ends, key=len)
            content = frame[: -len(mark)]
        check_size(len(frame), self.max_size)
        if self.escape is not None:
            escape = self.escape
            return self._special.sub(lambda m: escape + m[0], content) + mark
        encoded = content + mark
        found = self._marks.search(encoded)
        if found is None or found.start() != len(content):
            at = found.start() if found else 0
            unfit("no delimiter inside", f"one at offset {at}")
        return encoded


class _DelimitedFramer(BufferedFramer):
    """
    Subclasses find the next delimiter; this one does what remains to be done.
    """

    def __init__(self, framing: Delimited) -> None:
        super().__init__(framing.max_size)
        self._final = framing.accept_unterminated
        self._keep = framing.keep
        self._longest = max(map(len, framing.delimiter))
        # what a frame without its delimiter counts more if that is kept
        self._extra = min(map(len, framing.delimiter)) if framing.keep else 0
        self._scanned = 0
        """From `_start`: no delimiter starts before."""

    def _cut(self, at: int, end: int) -> bytes:
        """
        Take the frame that a delimiter ends.
        """
        start = self._start
        frame = self._data[start : end if self._keep else at]
        if type(frame) is not bytes:
            frame = bytes(frame)
        frame = self._unescape(frame)
        if len(frame) > self.max_size:
            self._too_long(len(frame), self.max_size)
        self._start = end
        self._scanned = 0
        return frame

    def _more(self) -> bytes | None:
        """
        Remember what was scanned in vain, or give up.
        """
        have = len(self._data) - self._start
        # the last bytes may be the first ones of a delimiter
        self._scanned = max(self._scanned, have - self._longest + 1)
        reached = self._reached(self._scanned) + self._extra
        if reached > self.max_size:
            self._too_long(reached, self.max_size)
        return self._wait()

    def _reached(self, scanned: int) -> int:
        """
        Say how long the frame is at least.
        """
        return scanned

    def _unescape(self, frame: bytes) -> bytes:
        return frame

    def end(self) -> bytes | None:
        if not self._final or not self.buffered:
            return super().end()
        frame = self._unescape(bytes(self._data[self._start :]))
        if len(frame) > self.max_size:
            self._too_long(len(frame), self.max_size)
        self._start = len(self._data)
        self._scanned = 0
        return frame


class _PlainFramer(_DelimitedFramer):
    def __init__(self, framing: Delimited) -> None:
        super().__init__(framing)
        (self._mark,) = framing.delimiter

    def decode(self) -> bytes | None:
        at = self._data.find(self._mark, self._start + self._scanned)
        if at < 0:
            return self._more()
        return self._cut(at, at + len(self._mark))


class _SeveralFramer(_DelimitedFramer):
    def __init__(self, framing: Delimited, marks: re.Pattern[bytes]) -> None:
        super().__init__(framing)
        self._search = marks.search

    def decode(self) -> bytes | None:
        found = self._search(self._data, self._start + self._scanned)
        if found is None:
            return self._more()
        return self._cut(found.start(), found.end())


class _EscapedFramer(_SeveralFramer):
    def __init__(
        self, framing: Delimited, marks: re.Pattern[bytes], escape: bytes
    ) -> None:
        super().__init__(framing, marks)
        self._escape = escape[0]
        self._pair = re.compile(re.escape(escape) + b"(.)", re.DOTALL)
        self._counted = 0
        self._escapes = 0

    def decode(self) -> bytes | None:
        while True:
            start = self._start
            found = self._search(self._data, start + self._scanned)
            if found is None:
                return self._more()
            at = found.start()
            if not self._is_escaped(at):
                self._counted = self._escapes = 0
                return self._cut(at, found.end())
            self._scanned = at - start + 1

    def _is_escaped(self, at: int) -> bool:
        # an odd number of escapes before it; these runs never overlap, so
        # walking them is linear
        data, escape, first = self._data, self._escape, at
        while first > self._start and data[first - 1] == escape:
            first -= 1
        return (at - first) % 2 == 1

    def _reached(self, scanned: int) -> int:
        if scanned > self._counted:
            start = self._start
            self._escapes += self._data.count(
                self._escape, start + self._counted, start + scanned
            )
            self._counted = scanned
        # an escape that is content has one of its own
        return scanned - min(self._escapes, (scanned + 1) // 2)

    def _unescape(self, frame: bytes) -> bytes:
        return self._pair.sub(rb"\1", frame) if self._escape in frame else frame

    def end(self) -> bytes | None:
        if self._final and self.buffered and self._is_escaped(len(self._data)):
            found = self._found()
            self._fail(IncompleteFrameError(self.buffered, found, diagnose(found)))
        self._counted = self._escapes = 0
        return super().end()
