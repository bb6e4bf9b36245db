"""
From a captured packet to the datagram or segment in it.

Everything is read where it stands, with what the packet itself says of lengths:
padding behind an IP packet is left off, and what the capture has cut off is told in
bytes. Checksums are not looked at, as network cards fill them in after a packet was
captured. IP fragments are put together, IPv6's extension headers are skipped.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections import OrderedDict
from collections.abc import Callable

import attrs

from protoserve.captures.files import Packet

__all__ = ["LINKTYPES", "Links", "Segment", "address_text"]

UDP, TCP = 17, 6
_MAX_TAGS = 8
"""VLAN tags on one another, and extension headers of one packet."""

MAX_DATAGRAMS = 256
"""Datagrams that are being put together; the oldest is given up first."""

MAX_FRAGMENTS = 1024
"""Fragments of one datagram: 64 KiB in the smallest pieces that links send."""

PATIENCE = 60.0
"""Seconds that fragments are kept (RFC 8200 section 4.5)."""


@attrs.frozen
class Segment:
    """
    A datagram of UDP or a segment of TCP.
    """

    packet: Packet
    transport: str
    source: bytes
    """The address."""
    source_port: int
    target: bytes
    target_port: int
    payload: bytes
    missing: int
    """Bytes of the payload that the capture lacks, at its end."""
    sequence: int = 0
    """TCP only, as are the flags."""
    flags: int = 0


def _ethernet(data: bytes) -> tuple[int, int] | None:
    return _tagged(data, 14, int.from_bytes(data[12:14], "big"))


def _tagged(data: bytes, start: int, kind: int) -> tuple[int, int] | None:
    """
    Skip VLAN tags (IEEE 802.1Q, also those of 802.1ad and older ones in front).
    """
    for _ in range(_MAX_TAGS):
        if kind not in (0x8100, 0x88A8, 0x9100, 0x9200):
            break
        kind = int.from_bytes(data[start + 2 : start + 4], "big")
        start += 4
    return (start, kind) if kind in (0x0800, 0x86DD) else None


def _family(data: bytes) -> tuple[int, int] | None:
    """
    Skip the address family in front of what a loopback interface has.

    Its byte order is the capturing host's, its number for IPv6 the system's.
    """
    families = {2: 0x0800, 10: 0x86DD, 24: 0x86DD, 28: 0x86DD, 30: 0x86DD}
    for order in ("<I", ">I"):
        kind = families.get(*struct.unpack_from(order, data)) if len(data) > 4 else None
        if kind is not None:
            return 4, kind
    return None


def _raw(data: bytes) -> tuple[int, int] | None:
    kinds = {4: 0x0800, 6: 0x86DD}
    kind = kinds.get(data[0] >> 4) if data else None
    return None if kind is None else (0, kind)


def _cooked(data: bytes) -> tuple[int, int] | None:
    return _tagged(data, 16, int.from_bytes(data[14:16], "big"))


def _cooked_2(data: bytes) -> tuple[int, int] | None:
    return _tagged(data, 20, int.from_bytes(data[0:2], "big"))


LINKTYPES: dict[int, Callable[[bytes], tuple[int, int] | None]] = {
    0: _family,
    1: _ethernet,
    12: _raw,
    14: _raw,
    101: _raw,
    108: _family,
    113: _cooked,
    228: _raw,
    229: _raw,
    276: _cooked_2,
}
"""What finds the IP packet: its start and its EtherType, by link type."""


@attrs.define
class _Pieces:
    """
    A datagram that is being put together.
    """

    time: float
    parts: dict[int, bytes] = attrs.field(factory=dict)
    size: int | None = None
    """Of the whole; known with the last fragment."""

    def whole(self) -> bytes | None:
        """
        Give the datagram if it is complete.
        """
        if self.size is None:
            return None
        data = bytearray()
        for start in sorted(self.parts):
            part = self.parts[start]
            if start > len(data):
                return None
            data += part[len(data) - start :]
        return bytes(data[: self.size]) if len(data) >= self.size else None


class Links:
    """
    Takes packets, gives datagrams and segments; keeps fragments.
    """

    def __init__(self) -> None:
        self._pieces: OrderedDict[tuple[bytes, bytes, int, int], _Pieces] = (
            OrderedDict()
        )
        self.unknown: dict[int, int] = {}
        """Packets of link types that are not known, by link type."""

    def segment(self, packet: Packet) -> Segment | None:
        """
        Find the datagram or segment that a packet is, or completes.

        Returns:
            `None` where there is none: other protocols, fragments, damage.
        """
        find = LINKTYPES.get(packet.linktype)
        if find is None:
            count = self.unknown.get(packet.linktype, 0)
            if count or len(self.unknown) < 256:
                self.unknown[packet.linktype] = count + 1
            return None
        found = find(packet.data)
        if found is None:
            return None
        start, kind = found
        if kind == 0x0800:
            return self._ipv4(packet, start)
        return self._ipv6(packet, start)

    def _ipv4(self, packet: Packet, start: int) -> Segment | None:
        data = packet.data
        if len(data) < start + 20 or data[start] >> 4 != 4:
            return None
        head = 4 * (data[start] & 0x0F)
        size, ident, fragment = struct.unpack_from(">HHH", data, start + 2)
        protocol = data[start + 9]
        source = data[start + 12 : start + 16]
        target = data[start + 16 : start + 20]
        if head < 20:
            return None
        # A card that cuts large packets itself has none of their lengths to show.
        end = start + size if size else len(data)
        body = data[start + head : end]
        missing = max(0, end - len(data))
        if fragment & 0x3FFF:
            whole = self._join(
                (source, target, protocol, ident),
                packet.time,
                8 * (fragment & 0x1FFF),
                body,
                last=not fragment & 0x2000,
                missing=missing,
            )
            if whole is None:
                return None
            body, missing = whole, 0
        return _transport(packet, protocol, source, target, body, missing)

    def _ipv6(self, packet: Packet, start: int) -> Segment | None:
        data = packet.data
        if len(data) < start + 40 or data[start] >> 4 != 6:
            return None
        size, protocol = struct.unpack_from(">HB", data, start + 4)
        source = data[start + 8 : start + 24]
        target = data[start + 24 : start + 40]
        end = start + 40 + size if size else len(data)
        missing = max(0, end - len(data))
        body = data[start + 40 : end]
        for _ in range(_MAX_TAGS):
            if protocol in (UDP, TCP) or len(body) < 8:
                break
            if protocol in (0, 43, 60, 135):  # hop-by-hop, routing, destination, mobile
                protocol, body = body[0], body[8 * body[1] + 8 :]
            elif protocol == 51:  # authentication
                protocol, body = body[0], body[4 * body[1] + 8 :]
            elif protocol == 44:
                at, ident = struct.unpack_from(">HI", body, 2)
                protocol, body = body[0], body[8:]
                if at & 0xFFF9:
                    key = (source, target, protocol, ident)
                    whole = self._join(
                        key,
                        packet.time,
                        at & 0xFFF8,
                        body,
                        last=not at & 1,
                        missing=missing,
                    )
                    if whole is None:
                        return None
                    body, missing = whole, 0
            else:
                return None
        return _transport(packet, protocol, source, target, body, missing)

    def _join(
        self,
        key: tuple[bytes, bytes, int, int],
        time: float,
        start: int,
        data: bytes,
        *,
        last: bool,
        missing: int,
    ) -> bytes | None:
        """
        Keep a fragment; give the datagram if it is the one that was wanting.
        """
        pieces = self._pieces.get(key)
        if pieces is None or time - pieces.time > PATIENCE:
            self._pieces.pop(key, None)
            pieces = self._pieces[key] = _Pieces(time)
            if len(self._pieces) > MAX_DATAGRAMS:
                self._pieces.popitem(last=False)
        if missing or start + len(data) > 65_535 + 40:
            return None
        if len(pieces.parts) < MAX_FRAGMENTS:
            pieces.parts.setdefault(start, data)
        if last:
            pieces.size = start + len(data)
        whole = pieces.whole()
        if whole is not None:
            del self._pieces[key]
        return whole


def _transport(
    packet: Packet,
    protocol: int,
    source: bytes,
    target: bytes,
    body: bytes,
    missing: int,
) -> Segment | None:
    if protocol == UDP and len(body) >= 8:
        source_port, target_port, size = struct.unpack_from(">HHH", body)
        if size >= 8:  # 0 stands for more than it can hold (RFC 2675)
            missing = max(0, size - len(body))
            body = body[:size]
        return Segment(
            packet, "udp", source, source_port, target, target_port, body[8:], missing
        )
    if protocol == TCP and len(body) >= 20:
        source_port, target_port, sequence = struct.unpack_from(">HHI", body)
        head, flags = 4 * (body[12] >> 4), body[13]
        if head < 20:
            return None
        return Segment(
            packet,
            "tcp",
            source,
            source_port,
            target,
            target_port,
            body[head:],
            missing - max(0, head - len(body)) if missing else 0,
            sequence,
            flags,
        )
    return None


@functools.lru_cache(maxsize=4096)
def address_text(address: bytes, port: int) -> str:
    """
    Write an address and a port.

    >>> address_text(bytes([192, 0, 2, 1]), 53)
    '192.0.2.1:53'
    """
    host = str(ipaddress.ip_address(address))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
