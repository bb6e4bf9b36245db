"""
Messages out of captures: pcap and pcapng files, links, streams, conversations.

Nothing here touches a socket: packets come from a file. It needs dpkt, from the extra
``protoserve[captures]``, to read one.
"""

from __future__ import annotations

from protoserve.captures.conversations import Conversations
from protoserve.captures.decoded import Decoded
from protoserve.captures.files import CaptureError, CaptureFile, Packet, is_capture
from protoserve.captures.flows import IncompleteCaptureError

__all__ = [
    "CaptureError",
    "CaptureFile",
    "Conversations",
    "Decoded",
    "IncompleteCaptureError",
    "Packet",
    "is_capture",
]
