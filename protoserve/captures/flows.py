"""
What goes one way in a conversation, as its session reports it.

A decoder goes on where a server would hang up. After a hole, after damage, and where a
capture begins in the middle of a stream, the start of each segment is tried until a
message is found there; the bytes before it are told as skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from protoserve.captures.links import Segment
from protoserve.captures.streams import Gap, HalfStream
from protoserve.errors import RemoteProtocolError
from protoserve.events import (
    NEED_DATA,
    Event,
    MessageReceived,
    MessageRejected,
    StreamBroken,
)
from protoserve.protocol import Direction
from protoserve.session import Session

__all__ = ["FIN", "RST", "SYN", "Flow", "IncompleteCaptureError", "Told"]

FIN, SYN, RST = 1, 2, 4


class IncompleteCaptureError(RemoteProtocolError):
    """
    Bytes cannot be decoded as the capture lacks them, or what is before them.
    """

    def __init__(self, offset: int, expected: str, found: str) -> None:
        super().__init__(offset, expected, found)
        self.offset = offset
        """Bytes from the start of the stream or of the frame."""
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"at offset {self.offset}: expected {self.expected}, found {self.found}"


Told: TypeAlias = (
    MessageReceived | MessageRejected | StreamBroken | IncompleteCaptureError
)
"""What a flow tells: a message, or why there is none."""


class Flow:
    """
    What goes one way in a conversation.

    Args:
        table: which messages they are.
        open_session: makes the session that takes them.
    """

    def __init__(
        self, table: Direction, open_session: Callable[[Flow], Session]
    ) -> None:
        self.table = table
        self.session: Session | None = None
        self.half = HalfStream()
        self.last: Segment | None = None
        """The segment that came last."""
        self._open = open_session
        self._trusted = False
        """Whether the session is known to stand at the start of a frame."""
        self._skipped = 0
        """Bytes in which no message was found, since the last one."""

    @property
    def buffered(self) -> int:
        """
        How many bytes wait.
        """
        held = 0 if self.session is None else self.session.buffered
        return self.half.waiting + held

    def opened(self) -> Session:
        """
        Give the session; make it if there is none.
        """
        if self.session is None:
            self.session = self._open(self)
        return self.session

    def datagram(self, payload: bytes) -> Iterator[Told]:
        """
        Take a datagram.
        """
        session = self.opened()
        session.receive_data(payload)
        yield from _told(_events(session))

    def segment(self, segment: Segment) -> Iterator[Told]:
        """
        Take a segment of a stream.
        """
        sequence = segment.sequence
        if segment.flags & SYN:
            sequence += 1
            self.half.start(sequence)
            self._trusted = True
        elif segment.flags & RST and not segment.payload:
            return
        for piece in self.half.take(
            sequence % (1 << 32),
            segment.payload,
            segment.missing,
            segment.packet.time,
            last=bool(segment.flags & FIN),
        ):
            yield from self._piece(piece)
        if self.half.ended:
            yield from self._closed()

    def finish(self) -> Iterator[Told]:
        """
        Tell what is left of a stream when no more comes.
        """
        for piece in self.half.give_up():
            yield from self._piece(piece)
        yield from self._closed()

    def _piece(self, piece: bytes | Gap) -> Iterator[Told]:
        if isinstance(piece, Gap):
            if self._trusted:
                yield self._lost(piece.size)
            else:
                self._skipped += piece.size
            self.session, self._trusted = None, False
            return
        for again in (False, True):
            session = self.opened()
            held = session.buffered
            session.receive_data(piece)
            events = list(_events(session))
            if self._trusted or _fit(events, session):
                if self._skipped and events:
                    yield self._in_vain(self.half.place - len(piece) - held)
                yield from _told(events)
                self._trusted = not any(isinstance(e, StreamBroken) for e in events)
                if not self._trusted:
                    self.session = None
                return
            if not events:
                return
            # No message starts where this session has begun. Perhaps one starts here.
            self.session = None
            self._skipped += held
            if again or not held:
                self._skipped += len(piece)
                return

    def _closed(self) -> Iterator[Told]:
        session = self.session
        if session is not None and not self._trusted:
            self._skipped += session.buffered
        elif session is not None:
            session.receive_eof()
            yield from _told(_events(session))
        self.session = None
        if self._skipped:
            yield self._in_vain(self.half.place)

    def _lost(self, size: int) -> IncompleteCaptureError:
        held = 0 if self.session is None else self.session.buffered
        inside = f", {held} bytes into a frame" if held else ""
        return IncompleteCaptureError(
            self.half.place - size,
            f"the next {size} bytes of the stream{inside}",
            "a gap in the capture",
        )

    def _in_vain(self, end: int) -> IncompleteCaptureError:
        size, self._skipped = self._skipped, 0
        return IncompleteCaptureError(
            max(0, end - size),
            "the start of a message",
            f"{size} bytes in which none was found",
        )


def _events(session: Session) -> Iterator[Event]:
    while (event := session.next_event()) is not NEED_DATA:
        yield event


def _told(events: Iterator[Event] | Sequence[Event]) -> Iterator[Told]:
    for event in events:
        if isinstance(event, MessageReceived | MessageRejected | StreamBroken):
            yield event


def _fit(events: Sequence[Event], session: Session) -> bool:
    """
    Say whether what a session has made of some bytes shows that it is in step.

    Either there is a message, or frames that end where the bytes end.
    """
    if any(isinstance(event, MessageReceived) for event in events):
        return True
    broken = any(isinstance(event, StreamBroken) for event in events)
    return bool(events) and not broken and not session.buffered
