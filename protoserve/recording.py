"""
Sessions that write down what comes and goes.

A service that has a journal begins these in place of plain ones, and its dispatcher
makes no functions that answer in passing; so nothing of it is on the way of a service
that has none. What has come of a stream is kept until the framer is done with it, as
a frame may be sent in more than one way, and what was skipped is to be told too.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from protoserve.errors import (
    CorruptedFrameError,
    FrameTooLongError,
    IncompleteFrameError,
)
from protoserve.events import (
    NEED_DATA,
    Event,
    MessageReceived,
    MessageRejected,
    NeedData,
    StreamBroken,
)
from protoserve.journal import Entry, Journal
from protoserve.plain import to_plain
from protoserve.protocol import Parsed
from protoserve.session import Session
from protoserve.types import BytesLike
from protoserve.urls import Address

if TYPE_CHECKING:
    import socket

__all__ = ["RecordedSession"]

logger = logging.getLogger("protoserve")

_UNCUT = (FrameTooLongError, CorruptedFrameError, IncompleteFrameError)
"""What is wrong with a datagram that could not be cut into frames."""


class RecordedSession(Session):
    """
    A session that writes what comes and goes to a journal.

    Args:
        journal: where to.
        sock: the socket whose own address is the local one.
        arguments: as for `Session`.
        options: likewise.
    """

    __slots__ = ("_journal", "_local", "_number", "_uncut")

    def __init__(
        self,
        journal: Journal,
        sock: socket.socket | None,
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._journal = journal
        self._number = 0
        self._uncut = bytearray()
        """What came of a stream that no event has told of; no more than the framer has."""
        self._local: Any = None
        if sock is not None:
            with contextlib.suppress(OSError):
                self._local = sock.getsockname()

    def receive_data(self, data: BytesLike) -> None:
        """
        Take the next bytes of the stream, or one whole datagram.
        """
        if self._framer is not None and not self._broken:
            skipped = len(self._uncut) - self._framer.buffered
            if skipped > 0:
                outcome = f"{skipped} bytes that belong to no frame were skipped"
                self._record("in", self._taken(), outcome=outcome)
            self._uncut += data
        super().receive_data(data)

    def next_event(self) -> Event | NeedData:
        """
        Give the next thing that happened.
        """
        event = super().next_event()
        if event is NEED_DATA:
            return event
        if isinstance(event, MessageReceived):
            raw = self._raw(event.frame.data)
            self._record("in", raw, Parsed(event.header, event.message, None))
        elif isinstance(event, MessageRejected):
            data = event.frame.data
            raw = data if isinstance(event.error, _UNCUT) else self._raw(data)
            parsed = Parsed(event.header, None, None)
            self._record("in", raw, parsed, outcome=_in_words(event.error))
        elif isinstance(event, StreamBroken):
            self._record("in", self._taken(), outcome=_in_words(event.error))
        return event

    def deliver(self, data: bytes) -> None:
        """
        Hand bytes to the transport.
        """
        parsed, outcome = None, "ok"
        try:
            parsed = self._parsed_back(data)
        except Exception as error:
            outcome = _in_words(error)
        self._record("out", data, parsed, outcome=outcome)
        super().deliver(data)

    def _parsed_back(self, data: bytes) -> Parsed:
        """
        Read what is sent as the peer will: only then is the header known as it is.
        """
        framing = self.protocol.framing
        if framing is None:
            frame = data
        elif self.stream:
            framer = framing.framer()
            framer.feed(data)
            frame = framer.decode() or framer.end() or b""
        else:
            frame = framing.split(data)[0]
        return self.protocol.parse(frame, self.outbound, session=self)

    def _raw(self, frame: bytes) -> bytes:
        """
        Give a frame that has come with its framing, exactly as it came.
        """
        if self._framer is not None:
            return self._taken()
        try:
            return frame if self._framing is None else self._framing.pack(frame)
        except ValueError:
            return frame

    def _taken(self) -> bytes:
        """
        Take the bytes that the framer is done with.
        """
        left = 0 if self._framer is None else self._framer.buffered
        stop = max(0, len(self._uncut) - left)
        taken = bytes(self._uncut[:stop])
        del self._uncut[:stop]
        return taken

    def _record(
        self,
        direction: str,
        raw: bytes,
        parsed: Parsed | None = None,
        *,
        outcome: str = "ok",
    ) -> None:
        name = header = fields = None
        try:
            if parsed is not None and parsed.header is not None:
                header = to_plain(parsed.header)
            if parsed is not None and parsed.message is not None:
                name = type(parsed.message).__name__
                fields = to_plain(parsed.message)
        except Exception as error:  # a user's own types may not like to be shown
            logger.debug("a message is recorded without its fields: %s", error)
        transport = "" if self.peer is None else self.peer.transport
        with self._journal.lock:  # so that a conversation has one number
            number = self._journal.write(
                Entry(
                    time=self._received_at if direction == "in" else time.time(),
                    transport=transport,
                    local=_url(transport, self._local),
                    peer=str(self.peer or ""),
                    session=self._number,
                    role=self.role.value,
                    direction=direction,
                    message=name,
                    header=header,
                    fields=fields,
                    outcome=outcome,
                    raw=raw,
                )
            )
            self._number = self._number or number


def _url(transport: str, address: Any) -> str:
    return "" if address is None else str(Address.bound(transport, address))


def _in_words(error: Exception) -> str:
    """
    Give an error's sentence, without the hexdump under it.
    """
    return str(error).partition("\n")[0]
