"""
A hexdump with a line for each field: its bytes, its name, its value.

It is made in two steps. `rows_of` decides what stands on which line; `annotated_text`
writes the lines plainly, for messages of tests and for logs, and
`protoserve.cli.annotate` writes them with a colour for each field. It stands this low
so that everything above the codec may use it.

Bit fields share bytes, so theirs are written as bits, with a dot for each that is
another's. Where a parse has ended, the byte is marked, and what follows is shown
without names.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from protoserve.codec.fault import plural
from protoserve.codec.spans import Span
from protoserve.errors import MalformedMessageError

__all__ = ["Row", "annotated_text", "rows_of", "value_text"]

_WIDTH = 8
"""Bytes on one line."""

_MOST_ROWS = 32
"""Lines of one field; what is behind them is told as a number of bytes."""

_LONGEST = 60
"""Characters of a value."""


@attrs.frozen
class Row:
    """
    One line.
    """

    offset: int | None
    """Where its bytes are in the frame; `None` for a heading and the like."""
    bytes: str = ""
    """The bytes in hex, or bits."""
    name: str = ""
    value: str = ""
    field: int | None = None
    """Which span it belongs to."""
    mark: int | None = None
    """Which of its bytes is the faulty one."""


def annotated_text(spans: Sequence[Span], data: bytes) -> str:
    r"""
    Write a frame's bytes with the names and values of its fields.

    Args:
        spans: from `protoserve.codec.spans`; their ``error``, if they have one, is
            shown at its byte.
        data: the frame.

    >>> from construct import Int8ub, Int16ub
    >>> from protoserve import Message, wire
    >>> from protoserve.codec.spans import message_spans
    >>> class Sample(Message):
    ...     kind: int = wire(Int8ub)
    ...     value: int = wire(Int16ub, unit="mV")
    >>> print(annotated_text(message_spans(Sample, b"\1\2\3"), b"\1\2\3"))
    Sample
    0000  01                       kind   1
    0001  02 03                    value  515 mV
    """
    rows = list(rows_of(spans, data))
    names = max((len(row.name) for row in rows if row.offset is not None), default=0)
    lines = []
    for row in rows:
        lines.append(_line(row, names))
        if row.mark is not None:
            lines.append(f"{'':{6 + 3 * row.mark}}^^")
    return "\n".join(lines)


def _line(row: Row, names: int) -> str:
    if row.offset is None:
        return row.name or row.value
    line = f"{row.offset:04x}  {row.bytes:<23}  {row.name:<{names}}  {row.value}"
    return line.rstrip()


def rows_of(spans: Sequence[Span], data: bytes) -> Iterator[Row]:
    """
    Decide what stands on which line.

    Args:
        spans: the frame's fields, in order.
        data: the frame.
    """
    error = getattr(spans, "error", None)
    fault = error.offset if isinstance(error, MalformedMessageError) else None
    marked = False
    heading = None
    at = 0
    for number, span in enumerate(spans):
        top = span.path.partition(".")[0].partition("[")[0]
        if span.start > at:
            yield from _rows(data, at, span.start, "", "(in no field)", None, fault)
        if top != heading:
            heading = top
            yield Row(None, name=top)
        name, value = span.name, value_text(span)
        here = fault is not None and span.start <= fault < span.stop
        if span.bits is not None:
            mark = 0 if here and not marked else None
            yield Row(span.start, _bits(data, span), name, value, number, mark)
        else:
            mark = fault if here and not marked else None
            yield from _rows(data, span.start, span.stop, name, value, number, mark)
        marked = marked or here
        at = max(at, span.stop)
    if at < len(data):
        rest = "(not parsed)" if error is not None else "(in no field)"
        here = fault is not None and at <= fault < len(data)
        mark = fault if here and not marked else None
        yield from _rows(data, at, len(data), "", rest, None, mark)
        marked = marked or here
    if fault is not None and not marked:
        yield Row(len(data), "", "", "(the end)", None, 0)
    if isinstance(error, MalformedMessageError):
        text = f"{error.path} at offset {error.offset}: expected {error.expected}, "
        yield Row(None, value=f"{text}found {error.found}")
    elif error is not None:
        yield Row(None, value=str(error))


def _rows(
    data: bytes,
    start: int,
    stop: int,
    name: str,
    value: str,
    number: int | None,
    fault: int | None,
) -> Iterator[Row]:
    """
    Give the lines of some bytes; the one with the fault is always among them.
    """
    for count, at in enumerate(range(start, stop, _WIDTH)):
        chunk = data[at : min(at + _WIDTH, stop)]
        mark = fault - at if fault is not None and at <= fault < at + _WIDTH else None
        if count == _MOST_ROWS:
            more = plural(stop - at, "more byte")
            yield Row(at, f"… {more}", "", "", number)
        if count < _MOST_ROWS or mark is not None:
            told = (name, value) if not count else ("", "")
            yield Row(at, chunk.hex(" "), *told, number, mark)


def _bits(data: bytes, span: Span) -> str:
    """
    Write the bytes of a bit field as bits, with dots for those of others.

    At most three bytes fit a line; of longer ones the bytes are written.
    """
    assert span.bits is not None
    chunk = data[span.start : span.stop]
    if len(chunk) > 2:
        return chunk.hex(" ")
    first, last = span.bits
    digits = "".join(f"{byte:08b}" for byte in chunk)
    shown = [d if first <= i <= last else "." for i, d in enumerate(digits)]
    return " ".join("".join(shown[i : i + 4]) for i in range(0, len(shown), 4))


def value_text(span: Span) -> str:
    """
    Write a field's value with what is known of it, on one line.
    """
    value = _short(_plainly(span))
    if span.unit:
        value = f"{value} {span.unit}"
    if span.kind == "tag":
        return f"{value} (tag)"
    if span.kind in ("length", "count", "checksum") and span.refers:
        return f"{value} ({span.kind} of {span.refers})"
    return value


def _plainly(span: Span) -> str:
    value: Any = span.value
    if span.kind == "padding":
        return "(padding)"
    if isinstance(value, enum.Enum):
        if value.name is None:  # several flags
            return str(value)
        return f"{value.name} ({value.value!r})"
    if isinstance(value, bytes | bytearray):
        return "".join(chr(b) if 32 <= b < 127 else "." for b in value[: _LONGEST + 1])
    if span.kind == "checksum" and isinstance(value, int):
        return f"{value:#x}"
    return repr(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
