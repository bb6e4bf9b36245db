"""
Sans-IO framers: how a stream of bytes is cut into frames.

A `Framing` is a value, declared once; its `framer()` decodes one stream and its
`encode()` makes a frame ready for it. On datagrams `split()` and `pack()` do the
same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protoserve.framing.base import DEFAULT_MAX_SIZE, Framer, Framing
    from protoserve.framing.buffer import BufferedFramer
    from protoserve.framing.cobs import Cobs
    from protoserve.framing.datagram import Datagram
    from protoserve.framing.delimited import Delimited
    from protoserve.framing.fixed_size import FixedSize
    from protoserve.framing.hdlc import Hdlc
    from protoserve.framing.length_field import LengthField
    from protoserve.framing.length_prefixed import LengthPrefixed
    from protoserve.framing.netstring import Netstring
    from protoserve.framing.octet_counted import OctetCounted
    from protoserve.framing.self_delimiting import AtLeast, SelfDelimiting, SizeFunction
    from protoserve.framing.slip import Slip
    from protoserve.framing.sync_word import SyncWord
else:
    from protoserve.late import late

    __getattr__, __dir__ = late(
        __name__,
        {
            "base": "DEFAULT_MAX_SIZE Framer Framing",
            "buffer": "BufferedFramer",
            "cobs": "Cobs",
            "datagram": "Datagram",
            "delimited": "Delimited",
            "fixed_size": "FixedSize",
            "hdlc": "Hdlc",
            "length_field": "LengthField",
            "length_prefixed": "LengthPrefixed",
            "netstring": "Netstring",
            "octet_counted": "OctetCounted",
            "self_delimiting": "AtLeast SelfDelimiting SizeFunction",
            "slip": "Slip",
            "sync_word": "SyncWord",
        },
    )

__all__ = [
    "DEFAULT_MAX_SIZE",
    "AtLeast",
    "BufferedFramer",
    "Cobs",
    "Datagram",
    "Delimited",
    "FixedSize",
    "Framer",
    "Framing",
    "Hdlc",
    "LengthField",
    "LengthPrefixed",
    "Netstring",
    "OctetCounted",
    "SelfDelimiting",
    "SizeFunction",
    "Slip",
    "SyncWord",
]
