"""
Protocols for the tests of faults: with a key, with checksums of each kind.
"""

from construct import Array, Bytes, Const, Int8ub, Int16ub, Int32ub, this

from protoserve import (
    Hdlc,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    SyncWord,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)


class Ack(Message):
    device: int = wire(Int32ub)
    unit: int = wire(Int8ub, default=0)


class Nak(Message, error=True):
    reason: int = wire(Int8ub)


class Reading(Request[Ack | Nak]):
    device: int = wire(Int32ub)
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[int] = wire(Array(this.count, Int16ub), factory=list)


class Samples(Message):
    samples: list[int] = wire(Array(this._.length // 2 - 3, Int16ub), factory=list)


class Fetch(Request[Samples]):
    count: int = wire(Int8ub)


class Tick(Message):
    number: int = wire(Int16ub, default=0)


class Header(Message):
    kind: int = wire(Int8ub)
    unit: int = wire(Int8ub, default=1)
    sequence: int = wire(Int16ub, default=0)
    length: int = wire(Int16ub, value=length_of("header", "body"))


class Trailer(Message):
    crc: int = wire(
        Int16ub, value=checksum_of("header", "body", using=checksums.crc16_modbus)
    )


TABLES = {
    "requests": {1: Reading, 2: Fetch},
    "responses": {1: Ack, 2: Samples, 0x80: Nak},
    "messages": {9: Tick},
}

checked = Protocol(
    "checked",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    trailer=Trailer,
    correlate="sequence",
    **TABLES,
)
"""With a checksum at the end of each frame."""

plain = Protocol(
    "plain",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    correlate="sequence",
    **TABLES,
)
"""With none."""

stuffed = Protocol(
    "stuffed", framing=Hdlc(), header=Header, tag="kind", correlate="sequence", **TABLES
)
"""With one that is the framing's, behind escapes."""


class Synced(Message):
    sync: bytes = wire(Const(b"\xb5\x62"), init=False)
    length: int = wire(Int16ub, value=length_of("body"))
    kind: int = wire(Int8ub)


class Pair(Message):
    data: bytes = wire(Bytes(2))
    check: int = wire(Int16ub, default=0)


synced = Protocol(
    "synced",
    framing=SyncWord(
        b"\xb5\x62", Int16ub, adjustment=1, checksum=checksums.crc16_xmodem
    ),
    header=Synced,
    tag="kind",
    messages={1: Pair},
)
"""With one that is in the frame, and is the framing's."""


def keyed(header, message):
    """
    Take the key from wherever the message has it.
    """
    return getattr(message, "device", None)


by_function = Protocol(
    "by_function",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    correlate=keyed,
    **TABLES,
)
"""With a key that a function works out."""
