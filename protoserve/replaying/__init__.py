"""
Conversations that were recorded, once more: with a server, or as a capture.

What a client has sent is sent again, byte for byte, on as many connections as there
were. What the server says now is compared with what it said then.
"""

from __future__ import annotations

from protoserve.replaying.answers import Difference
from protoserve.replaying.pcapng import write_pcapng
from protoserve.replaying.player import Replay, Replayed, run_replay
from protoserve.replaying.sources import Piece, Source, SourceError

__all__ = [
    "Difference",
    "Piece",
    "Replay",
    "Replayed",
    "Source",
    "SourceError",
    "run_replay",
    "write_pcapng",
]
