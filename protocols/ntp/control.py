"""
Control messages (mode 6), and what little can be said of private ones (mode 7).

A control message is a command or its response; the R bit tells. Responses longer
than one datagram come in parts with the M bit set on all but the last; offset and
count say which part (RFC 9327 section 2, RFC 1305 appendix B). The status word
has four meanings, told apart by what it stands in: `Control.status_word`.

The data is filled up with zeros to 32 bits, to 64 if a MAC follows, as the
reference implementation does. Neither has a length of its own: as with time
packets, the number of bytes left tells.
"""

from __future__ import annotations

import enum
from typing import Any, TypeAlias

import construct
from construct import BitsInteger, Bytes, GreedyBytes, Int8ub, Int16ub, this

from protocols.ntp.extensions import MAC_SIZES, Mac, bytes_left
from protocols.ntp.packets import Leap
from protoserve import Message, Request, length_of, wire

__all__ = [
    "ClockSource",
    "ClockStatus",
    "Control",
    "ControlError",
    "ErrorStatus",
    "Opcode",
    "PeerSelection",
    "PeerStatus",
    "Private",
    "StatusWord",
    "SystemStatus",
]

_FIXED_SIZE = 12
"""Bytes of a control message before its data, the header's included."""

_MAC_SIZES = tuple(size for size in MAC_SIZES if size > 4)
"""An error has a code here, and no crypto-NAK."""


class Opcode(enum.IntEnum):
    """
    Commands (RFC 9327 section 2).
    """

    READ_STATUS = 1
    READ_VARIABLES = 2
    WRITE_VARIABLES = 3
    READ_CLOCK_VARIABLES = 4
    WRITE_CLOCK_VARIABLES = 5
    SET_TRAP = 6
    TRAP_RESPONSE = 7
    CONFIGURE = 8
    EXPORT_CONFIGURATION = 9
    READ_MRU_LIST = 10
    READ_ORDERED_LIST = 11
    REQUEST_NONCE = 12
    UNSET_TRAP = 31


class ClockSource(enum.IntEnum):
    """
    Where the system's time comes from (RFC 9327 section 3.1).
    """

    UNSPECIFIED = 0
    ATOMIC_CLOCK = 1
    LOW_FREQUENCY_RADIO = 2
    HIGH_FREQUENCY_RADIO = 3
    SATELLITE = 4
    LOCAL_NET = 5
    NTP = 6
    OTHER = 7
    WRISTWATCH = 8
    TELEPHONE = 9


class PeerSelection(enum.IntEnum):
    """
    How far a peer came in the selection (RFC 9327 section 3.2).
    """

    REJECTED = 0
    FALSE_TICKER = 1
    EXCESS = 2
    OUTLIER = 3
    CANDIDATE = 4
    BACKUP = 5
    SYSTEM_PEER = 6
    PPS_PEER = 7


class ControlError(enum.IntEnum):
    """
    Why a command failed (RFC 9327 section 3.4).
    """

    UNSPECIFIED = 0
    AUTHENTICATION_FAILURE = 1
    INVALID_FORMAT = 2
    INVALID_OPCODE = 3
    UNKNOWN_ASSOCIATION = 4
    UNKNOWN_VARIABLE = 5
    INVALID_VALUE = 6
    PROHIBITED = 7


class SystemStatus(Message):
    """
    The system status word (RFC 9327 section 3.1).
    """

    leap: Leap = wire(BitsInteger(2), enum=Leap, default=Leap.NO_WARNING)
    source: ClockSource | int = wire(
        BitsInteger(6), enum=ClockSource, default=ClockSource.UNSPECIFIED
    )
    event_count: int = wire(
        BitsInteger(4), default=0, doc="since the status was last read, 15 at most"
    )
    event_code: int = wire(BitsInteger(4), default=0, doc="the latest event")


class PeerStatus(Message):
    """
    The status word of an association (RFC 9327 section 3.2).
    """

    configured: int = wire(BitsInteger(1), default=0)
    authentication_enabled: int = wire(BitsInteger(1), default=0)
    authentic: int = wire(BitsInteger(1), default=0)
    reachable: int = wire(BitsInteger(1), default=0)
    broadcast: int = wire(BitsInteger(1), default=0)
    selection: PeerSelection = wire(
        BitsInteger(3), enum=PeerSelection, default=PeerSelection.REJECTED
    )
    event_count: int = wire(
        BitsInteger(4), default=0, doc="since the status was last read, 15 at most"
    )
    event_code: int = wire(BitsInteger(4), default=0, doc="the latest event")


class ClockStatus(Message):
    """
    The status word of a reference clock (RFC 9327 section 3.3).
    """

    status: int = wire(Int8ub, default=0, doc="0 if all is well")
    event_code: int = wire(Int8ub, default=0, doc="the latest trouble")


class ErrorStatus(Message):
    """
    The status word of a response that reports an error (RFC 9327 section 3.4).
    """

    code: ControlError | int = wire(
        Int8ub, enum=ControlError, default=ControlError.UNSPECIFIED
    )
    reserved: int = wire(Int8ub, default=0)


StatusWord: TypeAlias = SystemStatus | PeerStatus | ClockStatus | ErrorStatus


class Fill(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    The zeros between data and MAC.

    Bytes that were parsed are built again as they were, unless data or MAC have
    changed since then so that they cannot be right.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flagbuildnone = True

    def _parse(self, stream: Any, context: Any, path: str) -> bytes:
        left = bytes_left(stream)
        size = _fill_size(context["count"], left)
        if size is None:
            raise construct.ValidationError(
                f"{left} bytes behind the data are neither padding nor a MAC", path=path
            )
        return bytes(construct.stream_read(stream, size, path))

    def _build(self, obj: bytes | None, stream: Any, context: Any, path: str) -> bytes:
        count, mac = len(context["data"]), context["mac"]
        behind = 0 if mac is None else 4 + len(mac.digest)
        if obj is None or _fill_size(count, len(obj) + behind) != len(obj):
            obj = bytes(-(_FIXED_SIZE + count) % (8 if behind else 4))
        construct.stream_write(stream, obj, len(obj), path)
        return obj


def _fill_size(count: int, left: int) -> int | None:
    """
    Say how many of the bytes behind the data are padding.

    A MAC on 64-bit words is tried first: `left` alone cannot tell 4 bytes of
    padding before one of 20 bytes from one of 24 bytes.
    """
    used = _FIXED_SIZE + count
    for size in (-used % 8, -used % 4):
        if left - size in _MAC_SIZES:
            return size
    return left if left < 8 and not (used + left) % 4 else None


class Control(Request["Control"]):
    """
    Mode 6: a command to a server, or a part of its response.

    Source: RFC 9327 section 2, figure 1.
    """

    response: int = wire(BitsInteger(1), default=0, doc="R: 1 in responses")
    error: int = wire(BitsInteger(1), default=0, doc="E: the status is an error's")
    more: int = wire(BitsInteger(1), default=0, doc="M: further parts follow")
    opcode: Opcode | int = wire(
        BitsInteger(5),
        enum=Opcode,
        default=Opcode.READ_STATUS,
        doc="the command; a response has the same",
    )
    sequence: int = wire(Int16ub, default=0, doc="ties responses to their command")
    status: int = wire(Int16ub, default=0, doc="a status word, see `status_word`")
    association: int = wire(
        Int16ub, default=0, doc="which peer or clock; 0 is the system itself"
    )
    offset: int = wire(
        Int16ub, default=0, unit="bytes", doc="where the data stands in all of it"
    )
    count: int = wire(
        Int16ub, value=length_of("data"), unit="bytes", doc="length of the data"
    )
    data: bytes = wire(
        Bytes(this.count),
        default=b"",
        doc="mostly ASCII, as in `name=value, name=value`; 468 bytes at most",
    )
    padding: bytes = wire(Fill(), init=False, doc="zeros up to whole words")
    mac: Mac | None = wire(
        construct.Optional(Mac.construct), default=None, doc="authenticates it"
    )

    @property
    def status_word(self) -> StatusWord:
        """
        The status, taken apart by what it is about.

        Source: RFC 9327 section 3.
        """
        kind: type[StatusWord] = PeerStatus if self.association else SystemStatus
        if self.error:
            kind = ErrorStatus
        elif self.opcode in (Opcode.READ_CLOCK_VARIABLES, Opcode.WRITE_CLOCK_VARIABLES):
            kind = ClockStatus
        return kind.parse(self.status.to_bytes(2))


class Private(Message):
    """
    Mode 7: whatever one implementation says to itself (RFC 5905 figure 10).

    No standard describes it. A server should not answer it: small requests with
    huge responses made it a weapon (CVE-2013-5211).
    """

    data: bytes = wire(GreedyBytes, default=b"", doc="all behind the first byte")
