"""
One message of a capture: who has sent it to whom, and what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from protoserve.errors import RemoteProtocolError
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol

__all__ = ["Decoded", "direction_of"]


@attrs.frozen
class Decoded:
    """
    One message, or what is there in place of one.
    """

    number: int
    """The packet that it was complete with."""
    time: float | None
    """Seconds since the epoch; `None` and empty texts for what is of no capture."""
    transport: str
    source: str
    """Address and port of who has sent it."""
    target: str
    direction: str
    """``request``, ``response``, or ``message`` for what both may send."""
    table: Direction
    """Where its tag was looked up."""
    message: Any
    """`None` if there is none; then there is an error."""
    header: Any
    raw: bytes
    """The frame without what framing adds; empty if no frame was cut."""
    error: RemoteProtocolError | None = None
    answers: int | None = None
    """For a response: the packet of the request, if that was seen."""
    elapsed: float = 0.0
    """Seconds since then."""
    session: Any = attrs.field(default=None, eq=False, repr=False)
    """What it was parsed with."""


def direction_of(protocol: Protocol, message: Message, table: Direction) -> str:
    """
    Name a message's direction, as far as its class has one.
    """
    both = protocol.messages
    free = both.values() if isinstance(both, Mapping) else (both,)
    return "message" if type(message) in free else table.value
