"""
What a flow sample says about one packet: flow records.

The packet's first bytes are a `SampledHeader`; switches that cannot give them send
`SampledEthernet`, `SampledIPv4` or `SampledIPv6`. The *extended* records add what
the device knew about the packet. All names are those of the specification; `as` and
`5s_cpu`, which are no names in Python, are `as_number` and `cpu_5s`.

Source: sflow_version_5.txt section 5, "Flow Data Types".
"""

from __future__ import annotations

import enum

from construct import Bytes, If, Int32ub, Padding, PrefixedArray, this

from protocols.sflow.xdr import (
    AddressType,
    IPv4Text,
    IPv6Text,
    Mac,
    Numbers,
    Opaque,
    Text,
    address,
)
from protoserve import Message, length_of, wire

__all__ = [
    "FLOW_RECORDS",
    "AsPathSegment",
    "ExtendedGateway",
    "ExtendedMpls",
    "ExtendedMplsFtn",
    "ExtendedMplsLdpFec",
    "ExtendedMplsTunnel",
    "ExtendedMplsVc",
    "ExtendedNat",
    "ExtendedRouter",
    "ExtendedSwitch",
    "ExtendedUrl",
    "ExtendedUser",
    "ExtendedVlanTunnel",
    "FlowFormat",
    "HeaderProtocol",
    "PathSegmentType",
    "SampledEthernet",
    "SampledHeader",
    "SampledIPv4",
    "SampledIPv6",
    "UrlDirection",
]


class FlowFormat(enum.IntEnum):
    """
    The flow records of enterprise 0; others are ``enterprise << 12 | format``.
    """

    SAMPLED_HEADER = 1
    SAMPLED_ETHERNET = 2
    SAMPLED_IPV4 = 3
    SAMPLED_IPV6 = 4
    EXTENDED_SWITCH = 1001
    EXTENDED_ROUTER = 1002
    EXTENDED_GATEWAY = 1003
    EXTENDED_USER = 1004
    EXTENDED_URL = 1005
    EXTENDED_MPLS = 1006
    EXTENDED_NAT = 1007
    EXTENDED_MPLS_TUNNEL = 1008
    EXTENDED_MPLS_VC = 1009
    EXTENDED_MPLS_FTN = 1010
    EXTENDED_MPLS_LDP_FEC = 1011
    EXTENDED_VLAN_TUNNEL = 1012


class HeaderProtocol(enum.IntEnum):
    """
    What a sampled header begins with.
    """

    ETHERNET_ISO88023 = 1
    ISO88024_TOKENBUS = 2
    ISO88025_TOKENRING = 3
    FDDI = 4
    FRAME_RELAY = 5
    X25 = 6
    PPP = 7
    SMDS = 8
    AAL5 = 9
    AAL5_IP = 10
    IPV4 = 11
    IPV6 = 12
    MPLS = 13
    POS = 14


class SampledHeader(Message):
    """
    The first bytes of the packet.
    """

    protocol: HeaderProtocol | int = wire(Int32ub, enum=HeaderProtocol)
    frame_length: int = wire(Int32ub, unit="bytes", doc="of the packet on the network")
    stripped: int = wire(
        Int32ub, default=0, unit="bytes", doc="taken off the packet before the header"
    )
    header_length: int = wire(Int32ub, value=length_of("header"), unit="bytes")
    header: bytes = wire(Bytes(this.header_length), default=b"")
    # What reads a record skips what is left of it, so that only who builds one cares.
    _padding: None = wire(
        If(this._building, Padding(-this.header_length % 4)),  # noqa: SLF001 - Construct's flag
        default=None,
    )


class SampledEthernet(Message):
    """
    An Ethernet frame, without its bytes.
    """

    length: int = wire(Int32ub, unit="bytes", doc="of the frame, with its FCS")
    src_mac: str = wire(Mac)
    dst_mac: str = wire(Mac)
    type: int = wire(Int32ub, doc="EtherType")


class SampledIPv4(Message):
    """
    An IPv4 packet, without its bytes.
    """

    length: int = wire(Int32ub, unit="bytes", doc="of the packet")
    protocol: int = wire(Int32ub, doc="IP protocol: 6 is TCP, 17 UDP")
    src_ip: str = wire(IPv4Text)
    dst_ip: str = wire(IPv4Text)
    src_port: int = wire(Int32ub, default=0)
    dst_port: int = wire(Int32ub, default=0)
    tcp_flags: int = wire(Int32ub, default=0)
    tos: int = wire(Int32ub, default=0, doc="type of service")


class SampledIPv6(Message):
    """
    An IPv6 packet, without its bytes.
    """

    length: int = wire(Int32ub, unit="bytes", doc="of the packet")
    protocol: int = wire(Int32ub, doc="next header: 6 is TCP, 17 UDP")
    src_ip: str = wire(IPv6Text)
    dst_ip: str = wire(IPv6Text)
    src_port: int = wire(Int32ub, default=0)
    dst_port: int = wire(Int32ub, default=0)
    tcp_flags: int = wire(Int32ub, default=0)
    priority: int = wire(Int32ub, default=0, doc="traffic class")


class ExtendedSwitch(Message):
    """
    What a switch knows: VLANs and priorities.
    """

    src_vlan: int = wire(Int32ub, doc="802.1Q VLAN that the frame came from")
    src_priority: int = wire(Int32ub, doc="its 802.1p priority there")
    dst_vlan: int = wire(Int32ub, doc="802.1Q VLAN that it went to")
    dst_priority: int = wire(Int32ub, doc="its 802.1p priority there")


class ExtendedRouter(Message):
    """
    What a router knows: the next hop and the prefixes.
    """

    nexthop_type: AddressType = wire(Int32ub, enum=AddressType, strict=True)
    nexthop: str | None = wire(address(this.nexthop_type))
    src_mask_len: int = wire(Int32ub, unit="bits")
    dst_mask_len: int = wire(Int32ub, unit="bits")


class PathSegmentType(enum.IntEnum):
    """
    Whether the systems of a part of an AS path are in order.
    """

    AS_SET = 1
    AS_SEQUENCE = 2


class AsPathSegment(Message):
    """
    A part of an AS path.
    """

    type: PathSegmentType | int = wire(Int32ub, enum=PathSegmentType)
    numbers: list[int] = wire(Numbers, factory=list)


class ExtendedGateway(Message):
    """
    What BGP knows.
    """

    nexthop_type: AddressType = wire(Int32ub, enum=AddressType, strict=True)
    nexthop: str | None = wire(address(this.nexthop_type), doc="the border router")
    as_number: int = wire(Int32ub, doc="autonomous system of the router")
    src_as: int = wire(Int32ub)
    src_peer_as: int = wire(Int32ub)
    dst_as_path: list[AsPathSegment] = wire(
        PrefixedArray(Int32ub, AsPathSegment.construct), factory=list
    )
    communities: list[int] = wire(Numbers, factory=list)
    localpref: int = wire(Int32ub, default=0)


class ExtendedUser(Message):
    """
    Who the users at both ends are, as a RADIUS server knows them.
    """

    src_charset: int = wire(Int32ub, default=106, doc="MIBenum (RFC 2978), 0: unknown")
    src_user: bytes = wire(Opaque, default=b"")
    dst_charset: int = wire(Int32ub, default=106, doc="MIBenum (RFC 2978), 0: unknown")
    dst_user: bytes = wire(Opaque, default=b"")


class UrlDirection(enum.IntEnum):
    """
    Which of the packet's addresses is the server's.
    """

    SRC = 1
    DST = 2


class ExtendedUrl(Message):
    """
    The HTTP request that a packet belongs to.
    """

    direction: UrlDirection | int = wire(Int32ub, enum=UrlDirection)
    url: str = wire(Text, default="", doc="the request line")
    host: str = wire(Text, default="", doc="the Host field")


class ExtendedMpls(Message):
    """
    The MPLS labels of a packet (RFC 3032).
    """

    nexthop_type: AddressType = wire(Int32ub, enum=AddressType, strict=True)
    nexthop: str | None = wire(address(this.nexthop_type))
    in_stack: list[int] = wire(Numbers, factory=list)
    out_stack: list[int] = wire(Numbers, factory=list)


class ExtendedNat(Message):
    """
    What a packet's addresses were translated to.
    """

    src_address_type: AddressType = wire(Int32ub, enum=AddressType, strict=True)
    src_address: str | None = wire(address(this.src_address_type))
    dst_address_type: AddressType = wire(Int32ub, enum=AddressType, strict=True)
    dst_address: str | None = wire(address(this.dst_address_type))


class ExtendedMplsTunnel(Message):
    """
    The MPLS tunnel that a packet is in.
    """

    tunnel_lsp_name: str = wire(Text)
    tunnel_id: int = wire(Int32ub)
    tunnel_cos: int = wire(Int32ub)


class ExtendedMplsVc(Message):
    """
    The MPLS virtual circuit that a packet is in.
    """

    vc_instance_name: str = wire(Text)
    vll_vc_id: int = wire(Int32ub)
    vc_label_cos: int = wire(Int32ub)


class ExtendedMplsFtn(Message):
    """
    The forwarding class of a packet (MPLS-FTN-STD-MIB).
    """

    mplsFTNDescr: str = wire(Text)  # noqa: N815 - the MIB's name
    mplsFTNMask: int = wire(Int32ub)  # noqa: N815 - the MIB's name


class ExtendedMplsLdpFec(Message):
    """
    The prefix of a packet's forwarding class (MPLS-LDP-STD-MIB).
    """

    mplsFecAddrPrefixLength: int = wire(Int32ub, unit="bits")  # noqa: N815 - the MIB's name


class ExtendedVlanTunnel(Message):
    """
    The 802.1Q layers that were stripped, the outermost first.
    """

    stack: list[int] = wire(Numbers, factory=list, doc="TPID << 16 | TCI")


FLOW_RECORDS: dict[int, type[Message]] = {
    FlowFormat.SAMPLED_HEADER: SampledHeader,
    FlowFormat.SAMPLED_ETHERNET: SampledEthernet,
    FlowFormat.SAMPLED_IPV4: SampledIPv4,
    FlowFormat.SAMPLED_IPV6: SampledIPv6,
    FlowFormat.EXTENDED_SWITCH: ExtendedSwitch,
    FlowFormat.EXTENDED_ROUTER: ExtendedRouter,
    FlowFormat.EXTENDED_GATEWAY: ExtendedGateway,
    FlowFormat.EXTENDED_USER: ExtendedUser,
    FlowFormat.EXTENDED_URL: ExtendedUrl,
    FlowFormat.EXTENDED_MPLS: ExtendedMpls,
    FlowFormat.EXTENDED_NAT: ExtendedNat,
    FlowFormat.EXTENDED_MPLS_TUNNEL: ExtendedMplsTunnel,
    FlowFormat.EXTENDED_MPLS_VC: ExtendedMplsVc,
    FlowFormat.EXTENDED_MPLS_FTN: ExtendedMplsFtn,
    FlowFormat.EXTENDED_MPLS_LDP_FEC: ExtendedMplsLdpFec,
    FlowFormat.EXTENDED_VLAN_TUNNEL: ExtendedVlanTunnel,
}
"""The message of each flow record's format."""
