"""
What the first bytes of a sampled packet say: addresses and ports as columns.

A header was cut off wherever the agent liked, so every step looks whether its bytes
are there, and what is not there stays `None`. The bytes may be hostile: tags, labels
and extension headers are followed only as long as there are bytes, each takes some,
and none of it raises.

Sources: IEEE 802.3 section 3.2.6, IEEE 802.1Q, RFC 3032 (MPLS), RFC 791, RFC 8200,
RFC 9293.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Protocol

from protocols.sflow.flows import HeaderProtocol
from protocols.sflow.xdr import mac_text

__all__ = ["Packet", "read_header"]

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN_TAGS = frozenset({0x8100, 0x88A8, 0x9100})
_MPLS = frozenset({0x8847, 0x8848})
_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
"""IPv6 headers that say how long they are in words of 8 bytes (RFC 6564)."""
_FRAGMENT, _AUTHENTICATION = 44, 51
_LEAST_TYPE = 0x600
"""What is less in an Ethernet header is the length of a frame that has no type."""
_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP and UDP-Lite begin with their ports."""
_ICMP = frozenset({1, 58})


class Packet(Protocol):
    """
    What is filled in.
    """

    src_mac: str | None
    dst_mac: str | None
    vlan: int | None
    ethernet_type: int | None
    src_ip: str | None
    dst_ip: str | None
    length: int | None
    protocol: int | None
    tos: int | None
    ttl: int | None
    src_port: int | None
    dst_port: int | None
    tcp_flags: int | None
    icmp_type: int | None
    icmp_code: int | None


def read_header(kind: int, header: bytes, packet: Packet) -> None:
    """
    Fill in what a sampled header says.

    Args:
        kind: what it begins with, a `HeaderProtocol`; others are left alone.
        header: the first bytes of the packet.
        packet: what is filled in.
    """
    read = _READERS.get(kind)
    if read is not None:
        read(header, 0, packet)


def _number(data: bytes, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size])


def _ethernet(data: bytes, at: int, packet: Packet) -> None:
    if len(data) < at + 14:
        return
    packet.dst_mac = mac_text(data[at : at + 6])
    packet.src_mac = mac_text(data[at + 6 : at + 12])
    kind, at = _number(data, at + 12, 2), at + 14
    while kind in _VLAN_TAGS and len(data) >= at + 4:
        if packet.vlan is None:
            packet.vlan = _number(data, at, 2) & 0xFFF
        kind, at = _number(data, at + 2, 2), at + 4
    if kind >= _LEAST_TYPE:
        packet.ethernet_type = kind
    if kind == _IPV4:
        _ipv4(data, at, packet)
    elif kind == _IPV6:
        _ipv6(data, at, packet)
    elif kind in _MPLS:
        _mpls(data, at, packet)


def _mpls(data: bytes, at: int, packet: Packet) -> None:
    """
    Skip the labels; what is behind the last one is told by its first bits (RFC 4928).
    """
    while len(data) > at + 4:
        last, at = data[at + 2] & 1, at + 4
        if last:
            _ip(data, at, packet)
            return


def _ip(data: bytes, at: int, packet: Packet) -> None:
    version = data[at] >> 4 if len(data) > at else 0
    if version == 4:
        _ipv4(data, at, packet)
    elif version == 6:
        _ipv6(data, at, packet)


def _ipv4(data: bytes, at: int, packet: Packet) -> None:
    if len(data) < at + 20 or data[at] >> 4 != 4:
        return
    packet.tos = data[at + 1]
    packet.length = _number(data, at + 2, 2)
    packet.ttl = data[at + 8]
    packet.protocol = data[at + 9]
    packet.src_ip = str(ipaddress.IPv4Address(data[at + 12 : at + 16]))
    packet.dst_ip = str(ipaddress.IPv4Address(data[at + 16 : at + 20]))
    if not _number(data, at + 6, 2) & 0x1FFF:  # later fragments have no ports
        _transport(data, at + 4 * max(data[at] & 0xF, 5), packet)


def _ipv6(data: bytes, at: int, packet: Packet) -> None:
    if len(data) < at + 40 or data[at] >> 4 != 6:
        return
    packet.tos = _number(data, at, 2) >> 4 & 0xFF
    packet.length = 40 + _number(data, at + 4, 2)
    packet.ttl = data[at + 7]
    packet.src_ip = str(ipaddress.IPv6Address(data[at + 8 : at + 24]))
    packet.dst_ip = str(ipaddress.IPv6Address(data[at + 24 : at + 40]))
    kind, at, whole = data[at + 6], at + 40, True
    while len(data) >= at + 8:
        if kind == _FRAGMENT:
            kind, whole, at = data[at], not _number(data, at + 2, 2) >> 3, at + 8
        elif kind == _AUTHENTICATION:
            kind, at = data[at], at + 4 * (data[at + 1] + 2)
        elif kind in _EXTENSIONS:
            kind, at = data[at], at + 8 * (data[at + 1] + 1)
        else:
            break
    packet.protocol = kind
    if whole:
        _transport(data, at, packet)


def _transport(data: bytes, at: int, packet: Packet) -> None:
    if packet.protocol in _WITH_PORTS and len(data) >= at + 4:
        packet.src_port = _number(data, at, 2)
        packet.dst_port = _number(data, at + 2, 2)
        if packet.protocol == 6 and len(data) >= at + 14:
            packet.tcp_flags = data[at + 13]
    elif packet.protocol in _ICMP and len(data) >= at + 2:
        packet.icmp_type, packet.icmp_code = data[at], data[at + 1]


_READERS: dict[int, Callable[[bytes, int, Packet], None]] = {
    HeaderProtocol.ETHERNET_ISO88023: _ethernet,
    HeaderProtocol.IPV4: _ipv4,
    HeaderProtocol.IPV6: _ipv6,
    HeaderProtocol.MPLS: _mpls,
}
