"""
The Network Time Protocol, versions 1 to 4, as it is on the wire.

`ntp` is the protocol: datagrams only, one packet in each. The first byte is the
header and its mode the tag. Modes 3 and 4 (client and server) have directions of
their own; the other modes may come from either side. Which response belongs to
which request is told by the time: a server's origin timestamp is the client's
transmit timestamp, to the bit. `exchange` goes by the message's class, as a request
that is being sent has no header yet.

Specifications: RFC 5905 (version 4), RFC 7822 (extension fields), RFC 9327
(control messages), RFC 1305 (version 3), RFC 1059 (version 1).

>>> from protoserve import Direction
>>> ntp.build(ClientRequest(transmit_timestamp=1), Direction.REQUEST)[:4].hex(" ")
'23 00 00 00'
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from protocols.ntp.control import (
    ClockSource,
    ClockStatus,
    Control,
    ControlError,
    ErrorStatus,
    Opcode,
    PeerSelection,
    PeerStatus,
    Private,
    SystemStatus,
)
from protocols.ntp.extensions import ExtensionField, FieldType, Mac
from protocols.ntp.packets import (
    Broadcast,
    ClientRequest,
    Header,
    Leap,
    Mode,
    ServerResponse,
    SymmetricActive,
    SymmetricPassive,
    TimePacket,
    Version1Request,
)
from protocols.ntp.timestamps import (
    difference,
    from_datetime,
    from_unix,
    from_unix_ns,
    offset_and_delay,
    short_from_seconds,
    short_to_seconds,
    to_datetime,
    to_unix,
    to_unix_ns,
)
from protoserve import Protocol

__all__ = [
    "Broadcast",
    "ClientRequest",
    "ClockSource",
    "ClockStatus",
    "Control",
    "ControlError",
    "ErrorStatus",
    "ExtensionField",
    "FieldType",
    "Header",
    "Leap",
    "Mac",
    "Mode",
    "Opcode",
    "PeerSelection",
    "PeerStatus",
    "Private",
    "ServerResponse",
    "SymmetricActive",
    "SymmetricPassive",
    "SystemStatus",
    "TimePacket",
    "Version1Request",
    "difference",
    "exchange",
    "from_datetime",
    "from_unix",
    "from_unix_ns",
    "ntp",
    "offset_and_delay",
    "short_from_seconds",
    "short_to_seconds",
    "to_datetime",
    "to_unix",
    "to_unix_ns",
]


def exchange(_header: Any, message: Any) -> Hashable:
    """
    Tell which exchange a message belongs to.

    Returns:
        What a question and its answer have in common; `None` for messages that
        are neither.

    Source: RFC 5905 section 8, RFC 9327 section 2.
    """
    match message:
        case ClientRequest() | Version1Request() | SymmetricActive():
            return "time", message.transmit_timestamp
        case ServerResponse() | SymmetricPassive():
            return "time", message.origin_timestamp
        case Control():
            return "control", message.sequence
        case _:
            return None


ntp = Protocol(
    "ntp",
    header=Header,
    tag="mode",
    requests={Mode.RESERVED: Version1Request, Mode.CLIENT: ClientRequest},
    responses={Mode.SERVER: ServerResponse},
    messages={
        Mode.SYMMETRIC_ACTIVE: SymmetricActive,
        Mode.SYMMETRIC_PASSIVE: SymmetricPassive,
        Mode.BROADCAST: Broadcast,
        Mode.CONTROL: Control,
        Mode.PRIVATE: Private,
    },
    correlate=exchange,
    ports={"udp": 123},
    doc="Network Time Protocol, versions 1 to 4 (RFC 5905)",
)
