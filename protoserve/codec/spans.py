"""
Which bytes each field of a frame takes: the map behind hexdumps and diffs.

The map is drawn by the interpreted parse, so that it tells what a parse has really
done: what a switch chose, how often an array ran, where an optional part was left
out. `protoserve.codec.noting` has the form of a message that takes note.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.codec.boundary import demand_end, explained
from protoserve.codec.caps import Caps, Usage
from protoserve.codec.noting import TRACE, Trace, noting_record
from protoserve.codec.record import Record, root_context
from protoserve.errors import RemoteProtocolError
from protoserve.types import BytesLike

if TYPE_CHECKING:
    from protoserve.messages import Message
    from protoserve.protocol import Direction, Protocol

__all__ = ["Span", "Spans", "message_spans", "spans"]


@attrs.frozen
class Span:
    """
    One field's bytes.
    """

    path: str
    """The field, as in ``Reading.samples[3]``."""
    start: int
    """Bytes from the start of the frame."""
    stop: int
    """The first byte behind it."""
    bits: tuple[int, int] | None
    """
    The first and the last bit, counted from the most significant one of byte `start`;
    `None` for whole bytes.
    """
    value: Any
    """What the message has; of padding: its bytes."""
    part: str
    """``header``, ``body`` or ``trailer``."""
    kind: str
    """
    ``number``, ``text``, ``bytes``, ``enum``, ``length``, ``count``, ``checksum``,
    ``tag``, ``constant``, ``padding`` or ``other``.
    """
    refers: str = ""
    """What a length, count or checksum is of: a field, or ``first to last``."""
    unit: str = ""
    doc: str = ""

    @property
    def name(self) -> str:
        """
        The path without what all fields of the message have in common.
        """
        return self.path.partition(".")[2] or self.path


class Spans(list[Span]):
    """
    The fields of one frame in the order of their bytes.
    """

    error: RemoteProtocolError | None
    """What ended the parse early; the fields before it are there."""

    def __init__(self) -> None:
        super().__init__()
        self.error = None


def spans(
    protocol: Protocol, frame: BytesLike, direction: Direction, *, session: Any = None
) -> Spans:
    """
    Find the fields of one whole frame.

    Args:
        protocol: what is spoken.
        frame: header, body and trailer, without what framing adds.
        direction: which table the tag is looked up in.
        session: what ``this._.session`` is to the fields.

    Returns:
        Every field that takes bytes. Of a malformed frame those that could be
        parsed; `Spans.error` says why there are no more.
    """
    data = bytes(frame)
    codec = protocol._codec
    traced = attrs.evolve(
        codec,
        header=None if codec.header is None else noting_record(codec.header),
        trailer=None if codec.trailer is None else noting_record(codec.trailer),
    )
    trace = Trace()
    ahead: list[int] = []

    def choose(header: Any) -> tuple[Record, Caps]:
        ahead.append(len(trace.leaves))
        record, caps = protocol._chosen(header, direction, data)
        return noting_record(record), caps

    found = Spans()
    with _traced(trace, found):
        traced.parse(data, choose, session)
    end = len(data) - codec.trailer_size
    for leaf in trace.leaves[: ahead[0] if ahead else None]:
        leaf.part = "trailer" if codec.trailer and leaf.start >= end else "header"
    _tell_tags(protocol, trace)
    found.extend(_finished(trace, data))
    return found


def message_spans(cls: type[Message], data: BytesLike) -> Spans:
    """
    Find the fields of one message by itself.

    Args:
        cls: its class.
        data: all of its bytes.
    """
    whole = bytes(data)
    record = noting_record(cls._record)
    path = record.record_name
    trace = Trace()
    found = Spans()
    with _traced(trace, found), explained(whole, path):
        stream = io.BytesIO(whole)
        context = root_context(parsing=True, _usage=Usage(cls._caps))
        record._parsereport(stream, context, path)
        demand_end(stream, context, path, len(whole))
    found.extend(_finished(trace, whole))
    return found


@contextlib.contextmanager
def _traced(trace: Trace, found: Spans) -> Iterator[None]:
    """
    Parse with a trace; an error ends the parse, and is kept.
    """
    token = TRACE.set(trace)
    try:
        yield
    except RemoteProtocolError as error:
        found.error = error
    finally:
        TRACE.reset(token)


def _finished(trace: Trace, data: bytes) -> list[Span]:
    """
    Give what was noted in the order of the bytes.
    """
    found = []
    for leaf in trace.leaves:
        value = leaf.value
        if leaf.kind == "padding" and leaf.bits is None:
            value = data[leaf.start : leaf.stop]
        found.append(
            Span(
                leaf.path,
                leaf.start,
                leaf.stop,
                leaf.bits,
                value,
                leaf.part,
                leaf.kind,
                leaf.refers,
                leaf.unit,
                leaf.doc,
            )
        )
    return sorted(found, key=lambda span: (span.start, span.bits or (0, 0)))


def _tell_tags(protocol: Protocol, trace: Trace) -> None:
    """
    Mark the header's fields that say which message follows.
    """
    if protocol.header is None or protocol.tag is None:
        return
    tag = protocol.tag
    names = (tag,) if isinstance(tag, str) else tag
    if callable(names):
        names = tuple(protocol._tag_fields)
    paths = {f"{protocol.header.__name__}.{name}" for name in names}
    for leaf in trace.leaves:
        if leaf.part == "header" and leaf.path in paths:
            leaf.kind = "tag"
