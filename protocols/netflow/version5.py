"""
NetFlow version 5: a head, and up to 30 records of 48 bytes.

Cisco never wrote a standard; the names are those of its documentation ("NetFlow Export
Datagram Format"), which all others use too. Addresses are numbers here, so that batch
routes find them as columns without a look at each; in the tables they are text.
"""

from __future__ import annotations

from construct import Array, Int8ub, Int16ub, Int32ub, this

from protocols.netflow.templates import PADDING, Column, Layout
from protoserve import Message, count_of, wire

__all__ = ["HEAD", "LAYOUT", "Flow5", "NetFlow5"]


class Flow5(Message):
    """
    One flow.
    """

    srcaddr: int = wire(Int32ub, default=0, doc="source IP address")
    dstaddr: int = wire(Int32ub, default=0, doc="destination IP address")
    nexthop: int = wire(Int32ub, default=0, doc="address of the next hop")
    input: int = wire(Int16ub, default=0, doc="SNMP index of the input interface")
    output: int = wire(Int16ub, default=0, doc="SNMP index of the output interface")
    dPkts: int = wire(Int32ub, default=0, unit="packets", doc="packets in the flow")  # noqa: N815 - the standard's name
    dOctets: int = wire(  # noqa: N815 - the standard's name
        Int32ub, default=0, unit="bytes", doc="bytes of layer 3 in the flow"
    )
    First: int = wire(
        Int32ub, default=0, unit="ms", doc="SysUptime when the flow began"
    )
    Last: int = wire(
        Int32ub, default=0, unit="ms", doc="SysUptime at the flow's last packet"
    )
    srcport: int = wire(Int16ub, default=0, doc="source port")
    dstport: int = wire(
        Int16ub, default=0, doc="destination port; for ICMP type times 256 plus code"
    )
    pad1: int = wire(Int8ub, default=0)
    tcp_flags: int = wire(Int8ub, default=0, doc="all TCP flags seen")
    prot: int = wire(Int8ub, default=0, doc="IP protocol")
    tos: int = wire(Int8ub, default=0, doc="IP type of service")
    src_as: int = wire(Int16ub, default=0, doc="autonomous system of the source")
    dst_as: int = wire(Int16ub, default=0, doc="autonomous system of the destination")
    src_mask: int = wire(Int8ub, default=0, unit="bits", doc="source prefix length")
    dst_mask: int = wire(
        Int8ub, default=0, unit="bits", doc="destination prefix length"
    )
    pad2: int = wire(Int16ub, default=0)


class NetFlow5(Message, table="flows"):
    """
    A datagram of version 5, behind the version.
    """

    count: int = wire(Int16ub, value=count_of("flows"), doc="flows in the datagram")
    SysUptime: int = wire(
        Int32ub, default=0, unit="ms", doc="time since the exporter started"
    )
    unix_secs: int = wire(Int32ub, default=0, unit="s", doc="seconds since 1970, UTC")
    unix_nsecs: int = wire(
        Int32ub, default=0, unit="ns", doc="what is left over of the second"
    )
    flow_sequence: int = wire(
        Int32ub, default=0, unit="flows", doc="flows exported before"
    )
    engine_type: int = wire(Int8ub, default=0, doc="kind of the switching engine")
    engine_id: int = wire(Int8ub, default=0, doc="slot of the switching engine")
    sampling_interval: int = wire(
        Int16ub, default=0, doc="two bits of mode, then one packet of how many"
    )
    flows: list[Flow5] = wire(Array(this.count, Flow5.construct), factory=list)


HEAD = (
    ("version", 0, 2),
    ("SysUptime", 4, 4),
    ("unix_secs", 8, 4),
    ("unix_nsecs", 12, 4),
    ("flow_sequence", 16, 4),
    ("engine_type", 20, 1),
    ("engine_id", 21, 1),
    ("sampling_interval", 22, 2),
)
"""What the flows of a datagram share: name, place and bytes."""

_RECORD = (
    "srcaddr:4 dstaddr:4 nexthop:4 input:2 output:2 dPkts:4 dOctets:4 First:4 Last:4 "
    "srcport:2 dstport:2 pad1:1 tcp_flags:1 prot:1 tos:1 src_as:2 dst_as:2 src_mask:1 "
    "dst_mask:1 pad2:2"
)


def _described(*messages: type[Message]) -> dict[str, dict[str, str]]:
    """
    Collect what the declarations say of the fields.
    """
    found: dict[str, dict[str, str]] = {}
    for message in messages:
        for field in message.construct.fields:
            said = {"doc": field.doc, "unit": field.unit}
            found[field.name] = {key: text for key, text in said.items() if text}
    return found


DESCRIBED = _described(Flow5, NetFlow5)
"""Docs and units by the columns' names."""


def _column(said: str) -> Column:
    name, size = said.split(":")
    kind = f"unsigned{8 * int(size)}"
    if name in {"srcaddr", "dstaddr", "nexthop"}:
        kind = "ipv4Address"
    return Column(name, PADDING if name.startswith("pad") else kind, int(size))


LAYOUT = Layout(tuple(map(_column, _RECORD.split())), "flows", 5, (48,))
"""The same records, as tables are made of them."""
