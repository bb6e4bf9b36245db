"""
What differs between two messages, or two runs of bytes, field by field.

An assertion that two byte strings are equal says at which byte they are not; that is
seldom what one wants to know. Here the bytes are read as the message that they are, and
each field that differs is told with its path, its offset and both values, followed by
both hexdumps. A field counts as different if its bytes are: a NaN is equal to itself,
and a field that has only moved is the same.

What `pytest_assertrepr_compare` gives is cut after a few lines unless asked otherwise,
so the differences come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from protoserve.codec.annotated import rows_of, value_text
from protoserve.codec.spans import Span, Spans, message_spans, spans
from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol

__all__ = ["Wire", "explain", "on_wire"]

_LONGEST = 200
"""Characters of a value that stands on its line alone."""


@attrs.frozen(eq=False)
class Wire:
    """
    Bytes, and what they are; made by `on_wire`. Equal to the same bytes.
    """

    of: type[Message] | Protocol
    data: bytes
    direction: Direction = Direction.REQUEST

    def __eq__(self, other: object) -> bool:
        data = _data_of(other)
        return NotImplemented if data is None else self.data == data

    def __hash__(self) -> int:
        return hash(self.data)

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        name = self.of.name if isinstance(self.of, Protocol) else self.of.__name__
        return f"on_wire({name}, {self.data.hex(' ')})"

    def spans(self, data: bytes | None = None) -> Spans:
        """
        Find the fields of these bytes, or of others of the same kind.
        """
        data = self.data if data is None else data
        if isinstance(self.of, Protocol):
            return spans(self.of, data, self.direction)
        return message_spans(self.of, data)


def on_wire(
    of: type[Message] | Protocol | Message,
    data: Any = None,
    direction: Direction = Direction.REQUEST,
) -> Wire:
    r"""
    Say what bytes are, so that an assertion about them shows their fields.

    Args:
        of: a message class; a protocol, for whole frames; or a message, whose bytes are
            meant.
        data: the bytes.
        direction: for frames, which way they go.

    >>> from construct import Int16ub
    >>> from protoserve import Message, wire
    >>> class Sample(Message):
    ...     value: int = wire(Int16ub)
    >>> on_wire(Sample, b"\0\1") == on_wire(Sample(1)) == b"\0\1"
    True
    """
    if isinstance(of, Message) and data is None:
        return Wire(type(of), bytes(of))
    known = isinstance(of, Protocol) or (
        isinstance(of, type) and issubclass(of, Message)
    )
    if not known:
        raise DeclarationError(
            f"on_wire takes a message class or a Protocol first, not {of!r}"
        )
    if data is None:
        raise DeclarationError("on_wire takes the bytes after the class")
    return Wire(of, bytes(data), direction)  # type: ignore[arg-type] # seen above


def explain(left: Any, right: Any) -> list[str] | None:
    """
    Say in which fields two things differ: what is expected, and what was found.

    Args:
        left: a `Wire`, a message, or a list of messages; bytes, if the other is a
            `Wire`.
        right: the same.

    Returns:
        Lines; `None` if there is nothing to say that is better than the usual.
    """
    if isinstance(left, list) and isinstance(right, list):
        return _explain_lists(left, right)
    if isinstance(left, Message) and isinstance(right, Message):
        if type(left) is not type(right):
            return None
        return _explain_messages(left, right)
    kind = left if isinstance(left, Wire) else right
    if not isinstance(kind, Wire):
        return None
    expected, found = _data_of(left), _data_of(right)
    if expected is None or found is None:
        return None
    return [
        f"{_short(repr(left))} == {_short(repr(right))}",
        *_explain_bytes(kind, expected, found),
    ]


def _data_of(value: object) -> bytes | None:
    if isinstance(value, Wire):
        return value.data
    if isinstance(value, bytes | bytearray | memoryview | Message):
        return bytes(value)
    return None


def _explain_lists(left: list[Any], right: list[Any]) -> list[str] | None:
    """
    Say which is the first of some messages that is another.
    """
    if not all(isinstance(each, Message) for each in (*left, *right)):
        return None
    for i, (expected, found) in enumerate(zip(left, right, strict=False)):
        if expected != found:
            lines = explain(expected, found)
            return lines and [f"at index {i}: {lines[0]}", *lines[1:]]
    return None


def _explain_messages(left: Message, right: Message) -> list[str]:
    head = f"{_short(repr(left))} == {_short(repr(right))}"
    try:
        kind = Wire(type(left), bytes(left))
        found = bytes(right)
    except ProtoserveError:  # it refers to its header, or a value does not fit
        return [head, *_different_values(left, right, type(left).__name__)]
    if kind.data == found:
        inside = list(_different_values(left, right, type(left).__name__))
        return [
            head,
            "their bytes are the same, but not what they are made of",
            *inside,
        ]
    return [head, *_explain_bytes(kind, kind.data, found)]


def _explain_bytes(kind: Wire, expected: bytes, found: bytes) -> Iterator[str]:
    """
    Say which fields differ, and show both sides.
    """
    left, right = kind.spans(expected), kind.spans(found)
    at_left = {_key(span): span for span in left}
    at_right = {_key(span): span for span in right}
    lines, marks = [], set()
    for key in dict.fromkeys([*at_left, *at_right]):
        one, other = at_left.get(key), at_right.get(key)
        if one is not None and other is not None and _same(one, expected, other, found):
            continue
        marks.add(key)
        lines.append(_difference(one, other))
    for side, spans_ in (("expected", left), ("found", right)):
        if spans_.error is not None:
            text = str(spans_.error).partition("\n")[0]
            lines.append(f"what is {side} does not parse: {text}")
    if len(expected) != len(found):
        lines.append(f"{len(expected)} bytes are expected, {len(found)} were found")
    yield from lines
    for side, spans_, data in (("expected", left, expected), ("found", right, found)):
        yield f"{side}:"
        yield from _dump(spans_, data, marks)


def _key(span: Span) -> tuple[str, str]:
    return span.part, span.path


def _same(one: Span, expected: bytes, other: Span, found: bytes) -> bool:
    if one.bits is not None or other.bits is not None:
        return bool(one.bits == other.bits and one.value == other.value)
    return expected[one.start : one.stop] == found[other.start : other.stop]


def _difference(one: Span | None, other: Span | None) -> str:
    span = one or other
    assert span is not None
    if one is None:
        return f"{span.path} at offset {span.start}: not expected, found {_told(span)}"
    if other is None:
        return f"{span.path} at offset {span.start}: expected {_told(span)}, not found"
    place = f"{other.path} at offset {other.start}"
    return f"{place}: expected {_told(one)}, found {_told(other)}"


def _told(span: Span) -> str:
    return repr(span.value) if span.kind == "bytes" else value_text(span)


def _dump(spans_: Spans, data: bytes, marks: set[tuple[str, str]]) -> Iterator[str]:
    """
    Write a hexdump with names; fields that differ are marked.
    """
    rows = list(rows_of(spans_, data))
    names = max((len(row.name) for row in rows if row.offset is not None), default=0)
    for row in rows:
        if row.offset is None:
            yield f"  {row.name or row.value}"
            continue
        marked = row.field is not None and _key(spans_[row.field]) in marks
        line = f"{row.offset:04x}  {row.bytes:<23}  {row.name:<{names}}  {row.value}"
        yield f"{'>' if marked else ' '} {line}".rstrip()


def _different_values(left: Any, right: Any, path: str) -> Iterator[str]:
    """
    Compare two messages by their attributes.
    """
    if isinstance(left, Message) and type(left) is type(right):
        for field in attrs.fields(type(left)):  # type: ignore[arg-type] # attrs classes
            one, other = getattr(left, field.name), getattr(right, field.name)
            yield from _different_values(one, other, f"{path}.{field.name}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _different_values(one, other, f"{path}[{i}]")
    elif left != right:
        yield f"{path}: expected {_short(repr(left))}, found {_short(repr(right))}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
