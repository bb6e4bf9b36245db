"""
Header, body and trailer of one frame, parsed and built together.

The parts share one stream, so that offsets count from the start of the frame,
and one context, so that the body sees the header as ``this._`` and the session
as ``this._.session``. Lengths and checksums of the header and the trailer that
speak of ``header``, ``body`` and ``trailer`` are checked before the body is
parsed: damaged bytes are told as such.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import attrs

from protoserve.codec.boundary import demand_end, explained, refused
from protoserve.codec.caps import Caps, Usage
from protoserve.codec.fault import Fault, plural
from protoserve.codec.record import (
    FrameContext,
    Record,
    Spans,
    check_computed,
    enclosing_context,
    fill_checksums,
    fill_lengths,
    parse_members,
    place_members,
    root_context,
)
from protoserve.errors import RemoteProtocolError
from protoserve.types import BytesLike

__all__ = ["FrameCodec", "LengthHead"]


@attrs.frozen
class LengthHead:
    """
    A length of fixed size that cuts a stream, in the terms of who reads it.
    """

    code: str
    """The struct module's byte order and letter; empty if it knows no such number."""
    unpack: Callable[[Any, int], tuple[Any, ...]]
    """Reads the number; gives a tuple of one."""
    offset: int
    """Where the number stands, in bytes from the first."""
    size: int
    """Bytes from the first that are needed to know how long a frame is."""
    plus: int
    """What is added to the number to get the bytes up to the next frame."""
    skip: int
    """Bytes in front that are not handed out."""
    most: int
    """The most bytes up to the next frame."""


@attrs.frozen
class FrameCodec:
    """
    The bytes of one protocol's frames.

    Args:
        name: the protocol's name.
        header: what comes first, or `None`.
        trailer: what comes last, or `None`; its size is fixed.
    """

    name: str
    header: Record | None
    trailer: Record | None
    trailer_size: int = attrs.field(init=False)

    @trailer_size.default
    def _measure(self) -> int:
        return 0 if self.trailer is None else int(self.trailer.sizeof())

    def parse(
        self,
        data: BytesLike,
        choose: Callable[[Any], tuple[Record, Caps]],
        session: Any,
    ) -> tuple[Any, Any, Any]:
        """
        Parse one frame.

        Args:
            data: the whole frame.
            choose: gives the body's record for a header.
            session: what ``this._.session`` is.

        Returns:
            Header (or `None`), message and trailer (or `None`).

        Raises:
            MalformedMessageError: the bytes are no such frame.
            UnknownMessageError: `choose` knows no message for the header.
        """
        whole = bytes(memoryview(data))  # bytes(5) would be five zeros
        header = None
        try:
            with explained(whole, self.name):
                end = len(whole) - self.trailer_size
                if end < 0:
                    expected = f"{plural(self.trailer_size, 'byte')} of trailer"
                    raise Fault(self.name, 0, expected, plural(len(whole), "byte"))
                usage = Usage(Caps())
                root = root_context(parsing=True, _usage=usage)
                context = FrameContext(enclosing_context(root, None))
                context["session"] = session
                stream = io.BytesIO(whole[:end] if self.trailer else whole)
                spans: Spans = {"trailer": (end, len(whole))}
                header, values = self._parse_part(self.header, stream, context, spans)
                start = stream.tell()
                spans["header"], spans["body"] = (0, start), (start, end)
                full = io.BytesIO(whole)
                full.seek(end)
                trailer, tail = self._parse_part(self.trailer, full, context, spans)
                self._check(self.header, values, spans, full)
                self._check(self.trailer, tail, spans, full)
                record, caps = choose(header)
                usage.caps = caps
                message = record._parsereport(stream, context, record.record_name)
                demand_end(stream, root, record.record_name, end)
                return header, message, trailer
        except RemoteProtocolError as error:
            error.header = header
            raise

    def _parse_part(
        self, record: Record | None, stream: Any, context: Any, spans: Spans
    ) -> tuple[Any, dict[str, Any]]:
        if record is None:
            return None, {}
        name = record.record_name
        values, own = parse_members(record.members, stream, context, name)
        spans.update(own)
        return record.made(values, own, name), values

    def _check(
        self, record: Record | None, values: dict[str, Any], spans: Spans, stream: Any
    ) -> None:
        if record is not None:
            check_computed(record.members, values, spans, stream, record.record_name)

    def build(
        self, header: Any, record: Record, message: Any, trailer: Any, session: Any
    ) -> bytes:
        """
        Build one frame.

        Args:
            header: the header, with its tag; lengths and checksums are filled in.
            record: the message's record.
            message: the body.
            trailer: the trailer; lengths and checksums are filled in.
            session: what ``this._.session`` is.

        Raises:
            InvalidMessageError: a value does not fit its format.
        """
        with refused(record.record_name):
            stream = io.BytesIO()
            context = FrameContext(
                enclosing_context(root_context(parsing=False), stream)
            )
            context["session"] = session
            spans: Spans = {}
            values = self._place_part(self.header, header, stream, context, spans)
            start = stream.tell()
            record._build(message, stream, context, record.record_name)
            end = stream.tell()
            tail = self._place_part(self.trailer, trailer, stream, context, spans)
            spans["header"], spans["body"] = (0, start), (start, end)
            spans["trailer"] = (end, stream.tell())
            for fill in (fill_lengths, fill_checksums):
                for part, known in ((self.header, values), (self.trailer, tail)):
                    if part is not None:
                        name = part.record_name
                        fill(part.members, known, spans, stream, context, name)
            return stream.getvalue()

    def _place_part(
        self, record: Record | None, part: Any, stream: Any, context: Any, spans: Spans
    ) -> dict[str, Any]:
        if record is None:
            return {}
        values = record.values_of(part)
        name = record.record_name
        spans.update(place_members(record.members, values, stream, context, name))
        return values
