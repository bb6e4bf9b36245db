r"""
Lines of text as Construct classes: what the protocols of metrics have in common.

A datagram holds one line or several, each a value of its own. `Lines` cuts them
apart, and a subclass reads and writes one. Three rules hold for all of them:

- A line that cannot be read does not spoil its neighbours: it becomes a `BadLine`,
  which says where in the datagram it is wrong, what was expected and what was found.
  Only where not a single line can be read, the datagram is malformed.
- Lines end with ``\n`` or ``\r\n``; the last one need not end. Empty lines are nothing.
- What would be read back as something else is not built. So a writer only has to
  write; what a grammar cannot express (a name with a colon in it) is found out by
  reading the line again.

Text is UTF-8. Bytes that are none are written ``\xNN``, so that everything can be
stored; such text does not come back as the bytes it was.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, NoReturn

import attrs
import construct

from protoserve import MalformedMessageError
from protoserve.telemetry.tables import column

__all__ = [
    "NUMBER",
    "BadLine",
    "Lines",
    "UnreadableError",
    "number_text",
    "shown",
    "text_of",
]

NUMBER = re.compile(rb"[+-]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?\d++)?+")
"""A number, without the names and underscores that Python takes too."""


class UnreadableError(ValueError):
    """
    A line is not what it should be.

    Args:
        at: where, in bytes from the line's start.
        expected: what should be there.
        found: what is there.
    """

    def __init__(self, at: int, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.at, self.expected, self.found = at, expected, found


@attrs.define
class BadLine:
    """
    A line that could not be read, beside others that could.
    """

    __table__: ClassVar[str] = "bad_lines"

    line: str = column(doc="the line as it came")
    offset: int = column(
        eq=False, doc="where it is wrong, from the frame's start", unit="byte"
    )
    expected: str = column(eq=False, doc="what should be there")
    found: str = column(eq=False, doc="what is there")


class Lines(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    All lines up to the end. Subclass it, and say how one is read and written.
    """

    longest: ClassVar[int] = 8192
    """Bytes of a line. A DogStatsD client's buffer has as many at most."""
    most: ClassVar[int] = 4096
    """Lines of a frame. Clients fill datagrams of 1,432 or 8,192 bytes at most."""
    comment: ClassVar[bytes | tuple[()]] = ()
    """What a line begins with that says nothing."""

    def read(self, line: bytes) -> Any:
        """
        Read a line, without its end; it is not empty.

        Raises:
            UnreadableError: it is none.
        """
        raise NotImplementedError

    def write(self, value: Any) -> str:
        """
        Write a value as a line, without its end.
        """
        raise NotImplementedError

    def end_of(self, data: bytes, start: int) -> int:
        """
        Find where a line ends; -1 if it is the last one.
        """
        return data.find(b"\n", start)

    def _parse(self, stream: Any, _context: Any, path: str) -> list[Any]:
        base = stream.tell()
        data = stream.read()
        values: list[Any] = []
        good = start = 0
        while start < len(data):
            stop = self.end_of(data, start)
            after = len(data) if stop < 0 else stop + 1
            line = data[start : after if stop < 0 else stop].removesuffix(b"\r")
            if line and not line.startswith(self.comment):
                if len(values) == self.most:
                    _refuse(path, base + start, f"at most {self.most} lines", "more")
                value = self._value(line, base + start)
                good += type(value) is not BadLine
                values.append(value)
            start = after
        if not good:
            if not values:
                _refuse(path, base, "a line", "none")
            bad = values[0]
            _refuse(f"{path}[0]", bad.offset, bad.expected, bad.found)
        return values

    def _value(self, line: bytes, offset: int) -> Any:
        try:
            if len(line) > self.longest:
                expected = f"a line of at most {self.longest} bytes"
                raise UnreadableError(self.longest, expected, str(len(line)))
            return self.read(line)
        except UnreadableError as bad:
            return BadLine(text_of(line), offset + bad.at, bad.expected, bad.found)

    def _build(self, obj: Any, stream: Any, _context: Any, _path: str) -> Any:
        lines = [self._line(value) for value in obj]
        if not lines:
            raise ValueError("expected a line or more, found none")
        stream.write(b"\n".join(lines))
        return obj

    def _line(self, value: Any) -> bytes:
        if isinstance(value, BadLine):
            return value.line.encode()
        line = self.write(value).encode()
        whole = self.end_of(line, 0) < 0 and not line.endswith(b"\r")
        whole = whole and not line.startswith(self.comment)
        again = self._value(line, 0) if whole else "several lines"
        if again != value:
            said = again.expected if isinstance(again, BadLine) else repr(again)
            raise ValueError(f"expected {said} where it is read again, found {value!r}")
        return line


def _refuse(path: str, offset: int, expected: str, found: str) -> NoReturn:
    raise MalformedMessageError(path, offset, expected, found)


def text_of(data: bytes) -> str:
    r"""
    Decode text, whatever it is.

    >>> print(text_of(b"x\xc3\xa9 \xff"))
    xé \xff
    """
    return data.decode("utf-8", "backslashreplace")


def shown(data: bytes) -> str:
    """
    Quote the beginning of what was found.

    >>> shown(b"abc"), shown(b"")
    ("'abc'", 'nothing')
    """
    if not data:
        return "nothing"
    text = repr(text_of(data[:32]))
    return text if len(data) <= 32 else f"{text}…"


def number_text(value: float) -> str:
    """
    Write a number as short as it can be read back.

    >>> number_text(3.0), number_text(0.1), number_text(1e300)
    ('3', '0.1', '1e+300')
    """
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return repr(value)
