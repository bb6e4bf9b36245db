"""
What a session reports about the bytes that it was given.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Literal, TypeAlias

import attrs

from protoserve.errors import RemoteProtocolError

__all__ = [
    "NEED_DATA",
    "Event",
    "Frame",
    "MessageReceived",
    "MessageRejected",
    "PeerClosed",
    "StreamBroken",
]


class _NeedData(enum.Enum):
    NEED_DATA = "need data"


NEED_DATA: Final = _NeedData.NEED_DATA
"""There is no event until more bytes come."""


@attrs.frozen
class Frame:
    """
    One frame as it arrived. A route that has a parameter of this type gets it.
    """

    data: bytes = attrs.field(repr=lambda data: data.hex(" "))
    """Header, body and trailer, without what framing adds."""

    received_at: float
    """When its last bytes were received, in seconds since the epoch."""


@attrs.frozen
class MessageReceived:
    """
    A whole message came.
    """

    message: Any
    header: Any
    frame: Frame
    request: Any = None
    """For a response: the request that it answers, if that is known."""


@attrs.frozen
class MessageRejected:
    """
    A frame came that is malformed, unknown, or not allowed now. The next may be fine.
    """

    error: RemoteProtocolError
    frame: Frame

    @property
    def header(self) -> Any:
        """
        The frame's header, or `None` if not even that could be parsed.
        """
        return self.error.header


@attrs.frozen
class StreamBroken:
    """
    The stream cannot be cut into frames any more. Nothing else will come.
    """

    error: RemoteProtocolError


@attrs.frozen
class PeerClosed:
    """
    The peer will send nothing more.
    """


Event: TypeAlias = MessageReceived | MessageRejected | StreamBroken | PeerClosed
NeedData: TypeAlias = Literal[_NeedData.NEED_DATA]
