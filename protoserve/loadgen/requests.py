"""
The requests that are sent, built beforehand, and what their answers are.

There is a cycle of frames that connections go through, each with a correlation key of
its own where the protocol has one that can be chosen. An answer's key leads back to
when its request was sent. Without such keys answers come in the order of the requests,
and on datagrams, where they may be lost, only one request is outstanding.

An answer that has come before is known by its bytes and not parsed again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import attrs

from protoserve.errors import DeclarationError, RemoteProtocolError
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session

__all__ = ["Answers", "Requests", "make_requests"]

MOST_FRAMES = 4096
"""Frames of the cycle."""
_MOST_BYTES = 1 << 24
"""Bytes of the cycle, and of the answers that are remembered."""
_MOST_KNOWN = 1 << 16


@attrs.frozen
class Requests:
    """
    A cycle of frames, ready to be sent.
    """

    frames: Sequence[bytes]
    keys: Sequence[Hashable] | None
    """What ties an answer to each frame; `None` if nothing does."""


def make_requests(
    protocol: Protocol,
    messages: Sequence[Message],
    *,
    stream: bool,
    header: Any = None,
) -> Requests:
    """
    Build the frames for some messages, which are sent one after the other.

    Args:
        protocol: what is spoken.
        messages: what is sent; at least one.
        stream: whether it is for a stream, or for datagrams.
        header: the header to send them under, without the key.

    Raises:
        LocalProtocolError: a message is no request, or does not fit its format.
        DeclarationError: the protocol has no framing, for a stream.
    """
    if stream and protocol.framing is None:
        raise DeclarationError(
            f"{protocol.name} has no framing=, so it cannot be spoken over a stream"
        )
    width = protocol.key_width()
    count = most = MOST_FRAMES if width is None else min(MOST_FRAMES, 1 << width)
    if len(messages) <= most:
        # Whole turns of the messages; without a key of ours, one is enough.
        turns = 1 if width is None else most // len(messages)
        count = turns * len(messages)
    session = Session(protocol, Role.CLIENT, stream=stream)
    session.phase = None  # the frames are not sent in this conversation
    frames: list[bytes] = []
    keys: list[Hashable] = []
    size = 0
    for n in range(count):
        message = messages[n % len(messages)]
        key = None if width is None else n
        under = protocol.header_for(message, Direction.REQUEST, base=header, key=key)
        frames.append(session.encode(message, header=under))
        keys.append(protocol.key(under, message))
        size += len(frames[-1])
        if size > _MOST_BYTES:
            break
    tells = protocol.correlate is not None and 1 < len(keys) == len(set(keys))
    return Requests(frames, keys if tells else None)


class Answers:
    """
    Says what the frames are that a server sends.

    Args:
        protocol: what is spoken.
        stream: whether it is for a stream, or for datagrams.
    """

    def __init__(self, protocol: Protocol, *, stream: bool) -> None:
        self.protocol = protocol
        self.known: dict[bytes, tuple[Hashable, str | None]] = {}
        """For frames that came before: the key, and what is wrong with it."""
        self._room = _MOST_BYTES
        self._session = Session(protocol, Role.CLIENT, stream=stream)

    def judge(self, frame: bytes) -> tuple[Hashable, str | None]:
        """
        Find out the key of a frame, and what is wrong with it, if anything.
        """
        protocol = self.protocol
        try:
            parsed = protocol.parse(frame, Direction.RESPONSE, session=self._session)
            key = protocol.key(parsed.header, parsed.message)
        except RemoteProtocolError as error:
            key = None if error.header is None else self._key(error.header)
            wrong: str | None = "malformed"
        else:
            wrong = "error response" if type(parsed.message).is_error else None
        self._room -= len(frame)
        if self._room > 0 and len(self.known) < _MOST_KNOWN:
            self.known[frame] = key, wrong
        return key, wrong

    def _key(self, header: Any) -> Hashable:
        try:
            return self.protocol.key(header, None)
        except Exception:  # it is a function of the message as well
            return None
