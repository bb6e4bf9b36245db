"""
Time packets: one format, of which each mode is a message of its own.

The first byte is the protocol's header; the mode in it is the tag. What follows is
the same in modes 1 to 5, so it is written once, in `TimePacket`, and the classes
below it only have a name. Version 1 had no modes: its three bits are zero, and a
packet to a server's port is a request (RFC 1305 appendix D).

Times are exact integers; `protocols.ntp.timestamps` converts them.
"""

from __future__ import annotations

import enum
import ipaddress

import construct
from construct import BitsInteger, Bytes, Int8sb, Int8ub, Int32ub, Int64ub

from protocols.ntp.extensions import ExtensionField, ExtensionFields, Mac
from protoserve import Message, Request, wire

__all__ = [
    "Broadcast",
    "ClientRequest",
    "Header",
    "Leap",
    "Mode",
    "ServerResponse",
    "SymmetricActive",
    "SymmetricPassive",
    "TimePacket",
    "Version1Request",
]


class Leap(enum.IntEnum):
    """
    The leap indicator (RFC 5905 figure 9).
    """

    NO_WARNING = 0
    ADD_SECOND = 1
    """The last minute of the day has 61 seconds."""
    DELETE_SECOND = 2
    """The last minute of the day has 59 seconds."""
    UNSYNCHRONIZED = 3
    """The clock was never set, or too long ago."""


class Mode(enum.IntEnum):
    """
    How the sender and the receiver are related (RFC 5905 figure 10).
    """

    RESERVED = 0
    """In version 1 all packets are like this."""
    SYMMETRIC_ACTIVE = 1
    SYMMETRIC_PASSIVE = 2
    CLIENT = 3
    SERVER = 4
    BROADCAST = 5
    CONTROL = 6
    PRIVATE = 7


class Header(Message):
    """
    The first byte of every NTP packet.

    Source: RFC 5905 section 7.3, figure 8.
    """

    leap: Leap = wire(
        BitsInteger(2),
        enum=Leap,
        default=Leap.NO_WARNING,
        doc="warns of a leap second at the end of the day",
    )
    version: int = wire(BitsInteger(3), default=4, doc="1 to 4")
    mode: Mode = wire(
        BitsInteger(3), enum=Mode, default=Mode.CLIENT, doc="what kind of packet it is"
    )


class TimePacket(Message):
    """
    What the modes that exchange time have in common.

    Source: RFC 5905 section 7.3, figure 8.
    """

    stratum: int = wire(
        Int8ub,
        default=0,
        doc="0 unknown or a kiss-o'-death, 1 primary, 2 to 15 secondary, 16 unsynchronized",
    )
    poll: int = wire(
        Int8sb, default=0, unit="log2 s", doc="longest time between messages, 4 to 17"
    )
    precision: int = wire(
        Int8sb, default=0, unit="log2 s", doc="of the sender's clock, -20 is a µs"
    )
    root_delay: int = wire(
        Int32ub, default=0, unit="2**-16 s", doc="to the primary source and back"
    )
    root_dispersion: int = wire(
        Int32ub, default=0, unit="2**-16 s", doc="largest error against that source"
    )
    reference_id: bytes = wire(
        Bytes(4),
        default=bytes(4),
        doc="the source: ASCII for stratum 0 and 1, an IPv4 address (or the MD5 hash "
        "of an IPv6 address, cut) above",
    )
    reference_timestamp: int = wire(
        Int64ub, default=0, unit="2**-32 s", doc="when the clock was last set"
    )
    origin_timestamp: int = wire(
        Int64ub,
        default=0,
        unit="2**-32 s",
        doc="the transmit timestamp of the packet that this answers",
    )
    receive_timestamp: int = wire(
        Int64ub, default=0, unit="2**-32 s", doc="when that packet arrived"
    )
    transmit_timestamp: int = wire(
        Int64ub, default=0, unit="2**-32 s", doc="when this packet left"
    )
    extensions: list[ExtensionField] = wire(
        ExtensionFields(ExtensionField.construct),
        factory=list,
        doc="extension fields (RFC 7822)",
    )
    mac: Mac | None = wire(
        construct.Optional(Mac.construct), default=None, doc="authenticates the packet"
    )

    @property
    def reference_text(self) -> str:
        """
        The reference id as people write it: letters up to stratum 1, else an address.

        Source: RFC 5905 section 7.3, figure 12.
        """
        if self.stratum > 1:
            return str(ipaddress.IPv4Address(self.reference_id))
        return self.reference_id.rstrip(b"\0").decode("ascii", "backslashreplace")

    @property
    def kiss_code(self) -> str | None:
        """
        Why the server wants no more requests, such as ``"RATE"`` or ``"DENY"``.

        It is `None` in all packets but a kiss-o'-death (RFC 5905 section 7.4).
        """
        return (self.reference_text or None) if self.stratum == 0 else None


class SymmetricActive(TimePacket):
    """
    Mode 1: a peer asks another, and offers its own time.
    """


class SymmetricPassive(TimePacket):
    """
    Mode 2: the answer of a peer that was not told of the other.
    """


class ServerResponse(TimePacket):
    """
    Mode 4: the server's time.
    """


class ClientRequest(TimePacket, Request[ServerResponse], idempotent=True):
    """
    Mode 3: a client asks for the time.

    The transmit timestamp is what ties the response to it; it need not be true,
    but no two requests in flight may have the same.
    """


class Version1Request(TimePacket, Request[ServerResponse], idempotent=True):
    """
    Mode 0: a client of version 1 asks for the time (RFC 1305 appendix D).

    In any other version the mode is reserved, and nothing should answer it.
    """


class Broadcast(TimePacket):
    """
    Mode 5: a server tells everyone the time.
    """
