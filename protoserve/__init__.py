"""
FastAPI for binary protocols.

Declare messages once with Construct, write routes as plain attrs classes, and get
from that one declaration a server on the classic `protoserve.server` stack, and
everything else that speaks the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protoserve import checksums
    from protoserve.batch import Batch
    from protoserve.errors import (
        CorruptedFrameError,
        DeclarationError,
        ErrorResponse,
        FrameTooLongError,
        IncompleteFrameError,
        InvalidMessageError,
        LocalProtocolError,
        MalformedMessageError,
        PeerTimeoutError,
        ProtocolError,
        ProtoserveError,
        RemoteProtocolError,
        SessionClosedError,
        UnknownMessageError,
    )
    from protoserve.events import Frame
    from protoserve.framing import (
        Cobs,
        Datagram,
        Delimited,
        FixedSize,
        Framer,
        Framing,
        Hdlc,
        LengthField,
        LengthPrefixed,
        Netstring,
        OctetCounted,
        SelfDelimiting,
        Slip,
        SyncWord,
    )
    from protoserve.limits import Limits
    from protoserve.messages import (
        Caps,
        Message,
        Request,
        checksum_of,
        count_of,
        length_of,
        wire,
    )
    from protoserve.numbered import Numbered
    from protoserve.protocol import Direction, Protocol
    from protoserve.routing import (
        batch_route,
        connected,
        disconnected,
        malformed,
        on_error,
        route,
        unknown,
    )
    from protoserve.service import Service
    from protoserve.session import Peer, Role, Session
else:
    from protoserve.late import late

    __getattr__, __dir__ = late(
        __name__,
        {
            "batch": "Batch",
            "checksums": "",
            "errors": (
                "CorruptedFrameError DeclarationError ErrorResponse "
                "FrameTooLongError IncompleteFrameError InvalidMessageError "
                "LocalProtocolError MalformedMessageError PeerTimeoutError "
                "ProtocolError ProtoserveError RemoteProtocolError "
                "SessionClosedError UnknownMessageError"
            ),
            "events": "Frame",
            "framing": (
                "Cobs Datagram Delimited FixedSize Framer Framing Hdlc "
                "LengthField LengthPrefixed Netstring OctetCounted "
                "SelfDelimiting Slip SyncWord"
            ),
            "limits": "Limits",
            "messages": "Caps Message Request checksum_of count_of length_of wire",
            "numbered": "Numbered",
            "protocol": "Direction Protocol",
            "routing": (
                "batch_route connected disconnected malformed on_error route unknown"
            ),
            "service": "Service",
            "session": "Peer Role Session",
        },
    )

__all__ = [
    "Batch",
    "Caps",
    "Cobs",
    "CorruptedFrameError",
    "Datagram",
    "DeclarationError",
    "Delimited",
    "Direction",
    "ErrorResponse",
    "FixedSize",
    "Frame",
    "FrameTooLongError",
    "Framer",
    "Framing",
    "Hdlc",
    "IncompleteFrameError",
    "InvalidMessageError",
    "LengthField",
    "LengthPrefixed",
    "Limits",
    "LocalProtocolError",
    "MalformedMessageError",
    "Message",
    "Netstring",
    "Numbered",
    "OctetCounted",
    "Peer",
    "PeerTimeoutError",
    "Protocol",
    "ProtocolError",
    "ProtoserveError",
    "RemoteProtocolError",
    "Request",
    "Role",
    "SelfDelimiting",
    "Service",
    "Session",
    "SessionClosedError",
    "Slip",
    "SyncWord",
    "UnknownMessageError",
    "batch_route",
    "checksum_of",
    "checksums",
    "connected",
    "count_of",
    "disconnected",
    "length_of",
    "malformed",
    "on_error",
    "route",
    "unknown",
    "wire",
]
