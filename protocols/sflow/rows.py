"""
Datagrams as rows: `flow_samples`, and a table for each kind of counters.

A flow sample is one row: what its records say about the packet stands side by side,
and what no record says is `None`. A counter record is one row of its own table; the
columns are those of its message, which is the only place that names them, with the
agent and the source before them. A counter that is all ones, or a percentage or load of
-1, is one that the agent does not have, and `None` here, as is a number that only a broken
agent sends: one that has no room in 63 bits.
"""
# ruff: noqa: RUF009 - what is called declares a column

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Union, get_type_hints

import attrs

from protocols.sflow import counters, hosts
from protocols.sflow.flows import (
    ExtendedGateway,
    ExtendedMpls,
    ExtendedNat,
    ExtendedRouter,
    ExtendedSwitch,
    ExtendedUrl,
    ExtendedUser,
    ExtendedVlanTunnel,
    SampledEthernet,
    SampledHeader,
    SampledIPv4,
    SampledIPv6,
)
from protocols.sflow.packets import read_header
from protocols.sflow.samples import ExpandedFlowSample, FlowSample
from protocols.texts import clean
from protoserve import Message
from protoserve.telemetry.tables import column

if TYPE_CHECKING:
    from protocols.sflow import Datagram

__all__ = ["TABLES", "CounterRows", "FlowRow", "Row", "Source", "rows_of"]


@attrs.define(kw_only=True)
class Source:
    """
    The columns that all tables begin with.
    """

    agent_address: str = column(doc="the device")
    sub_agent_id: int = column(doc="the part of it")
    sys_uptime: int = column(unit="ms", doc="since the device was started")
    sequence_number: int = column(doc="of the source's samples")
    source_id_type: int = column(doc="0 ifIndex, 1 VLAN, 2 physical entity")
    source_id_index: int = column()


def _maybe(**said: Any) -> Any:
    return column(default=None, **said)


@attrs.define(kw_only=True)
class FlowRow(Source):
    """
    A packet that was sampled.
    """

    __table__: ClassVar[str] = "flow_samples"

    sampling_rate: int = column(doc="one packet in so many")
    sample_pool: int = column(doc="packets that might have been sampled")
    drops: int = column(doc="samples that the agent has lost")
    input_format: int = column()
    input: int = column(doc="interface; 0x3fffffff: the device itself")
    output_format: int = column(doc="0 interface, 1 discarded, 2 several interfaces")
    output: int = column(doc="interface, reason, or number of interfaces")
    header_protocol: int | None = _maybe(doc="what the sampled header begins with")
    frame_length: int | None = _maybe(unit="bytes", doc="of the packet on the network")
    stripped: int | None = _maybe(unit="bytes", doc="taken off before the header")
    src_mac: str | None = _maybe()
    dst_mac: str | None = _maybe()
    vlan: int | None = _maybe(doc="of the outermost 802.1Q tag in the header")
    ethernet_type: int | None = _maybe()
    src_ip: str | None = _maybe()
    dst_ip: str | None = _maybe()
    length: int | None = _maybe(unit="bytes", doc="of the IP packet")
    protocol: int | None = _maybe(doc="IP protocol: 6 is TCP, 17 UDP")
    tos: int | None = _maybe(doc="type of service, or traffic class")
    ttl: int | None = _maybe(doc="time to live, or hop limit")
    src_port: int | None = _maybe()
    dst_port: int | None = _maybe()
    tcp_flags: int | None = _maybe()
    icmp_type: int | None = _maybe()
    icmp_code: int | None = _maybe()
    src_vlan: int | None = _maybe()
    src_priority: int | None = _maybe()
    dst_vlan: int | None = _maybe()
    dst_priority: int | None = _maybe()
    nexthop: str | None = _maybe(doc="the next router")
    src_mask_len: int | None = _maybe(unit="bits")
    dst_mask_len: int | None = _maybe(unit="bits")
    bgp_nexthop: str | None = _maybe(doc="the border router")
    as_number: int | None = _maybe(doc="autonomous system of the device")
    src_as: int | None = _maybe()
    src_peer_as: int | None = _maybe()
    dst_as_path: list[int] | None = _maybe(doc="sequences and sets in one")
    communities: list[int] | None = _maybe()
    localpref: int | None = _maybe()
    src_user: str | None = _maybe()
    dst_user: str | None = _maybe()
    url: str | None = _maybe(doc="the request line")
    host: str | None = _maybe(doc="the Host field")
    mpls_nexthop: str | None = _maybe()
    in_stack: list[int] | None = _maybe(doc="MPLS labels of the packet received")
    out_stack: list[int] | None = _maybe(doc="MPLS labels of the packet sent")
    nat_src_address: str | None = _maybe()
    nat_dst_address: str | None = _maybe()
    vlan_stack: list[int] | None = _maybe(doc="stripped 802.1Q tags, TPID << 16 | TCI")


def _header(record: SampledHeader, row: FlowRow) -> None:
    row.header_protocol = int(record.protocol)
    row.frame_length, row.stripped = record.frame_length, record.stripped
    read_header(row.header_protocol, record.header, row)


def _ethernet(record: SampledEthernet, row: FlowRow) -> None:
    row.frame_length = record.length
    row.src_mac, row.dst_mac = record.src_mac, record.dst_mac
    row.ethernet_type = record.type


def _ip(record: SampledIPv4 | SampledIPv6, row: FlowRow) -> None:
    row.length, row.protocol = record.length, record.protocol
    row.src_ip, row.dst_ip = record.src_ip, record.dst_ip
    row.src_port, row.dst_port = record.src_port, record.dst_port
    row.tcp_flags = record.tcp_flags
    row.tos = record.tos if isinstance(record, SampledIPv4) else record.priority


def _switch(record: ExtendedSwitch, row: FlowRow) -> None:
    row.src_vlan, row.src_priority = record.src_vlan, record.src_priority
    row.dst_vlan, row.dst_priority = record.dst_vlan, record.dst_priority


def _router(record: ExtendedRouter, row: FlowRow) -> None:
    row.nexthop = record.nexthop
    row.src_mask_len, row.dst_mask_len = record.src_mask_len, record.dst_mask_len


def _gateway(record: ExtendedGateway, row: FlowRow) -> None:
    row.bgp_nexthop, row.as_number = record.nexthop, record.as_number
    row.src_as, row.src_peer_as = record.src_as, record.src_peer_as
    row.dst_as_path = [n for part in record.dst_as_path for n in part.numbers]
    row.communities, row.localpref = record.communities, record.localpref


def _user(record: ExtendedUser, row: FlowRow) -> None:
    row.src_user = record.src_user.decode("utf-8", "replace")
    row.dst_user = record.dst_user.decode("utf-8", "replace")


def _url(record: ExtendedUrl, row: FlowRow) -> None:
    row.url, row.host = clean(record.url), clean(record.host)


def _mpls(record: ExtendedMpls, row: FlowRow) -> None:
    row.mpls_nexthop = record.nexthop
    row.in_stack, row.out_stack = record.in_stack, record.out_stack


def _nat(record: ExtendedNat, row: FlowRow) -> None:
    row.nat_src_address, row.nat_dst_address = record.src_address, record.dst_address


def _vlan_tunnel(record: ExtendedVlanTunnel, row: FlowRow) -> None:
    row.vlan_stack = record.stack


_FILL: dict[type, Callable[[Any, FlowRow], None]] = {
    SampledHeader: _header,
    SampledEthernet: _ethernet,
    SampledIPv4: _ip,
    SampledIPv6: _ip,
    ExtendedSwitch: _switch,
    ExtendedRouter: _router,
    ExtendedGateway: _gateway,
    ExtendedUser: _user,
    ExtendedUrl: _url,
    ExtendedMpls: _mpls,
    ExtendedNat: _nat,
    ExtendedVlanTunnel: _vlan_tunnel,
}


_UNKNOWN = {4: (1 << 32) - 1, 8: 1 << 63}
"""From which number on a counter of so many bytes is not a count."""


class CounterRows:
    """
    Makes rows of one kind of counters.

    Args:
        cls: their message; each of its fields is a column.
        table: what their table is called.
    """

    def __init__(self, cls: type[Message], table: str) -> None:
        hints = get_type_hints(cls)
        self._limits: dict[str, int | None] = {}
        namespace: dict[str, Any] = {
            "__annotations__": {},
            "__doc__": cls.__doc__,
            "__module__": __name__,
            "__qualname__": f"{cls.__name__}Row",
            "__table__": table,
        }
        for field in cls.construct.fields:
            hint = hints[field.name]
            kind = hint if hint in (float, str, bytes) else int
            self._limits[field.name] = (
                _UNKNOWN[field.construct.sizeof()] if kind is int else None
            )
            namespace["__annotations__"][field.name] = kind | None
            namespace[field.name] = _maybe(doc=field.doc, unit=field.unit)
        made = type(f"{cls.__name__}Row", (Source,), namespace)
        self.row: Any = attrs.define(made, kw_only=True)
        """The class of the rows."""

    def make(self, source: dict[str, Any], record: Message) -> Any:
        """
        Make the row of a record.
        """
        values = dict(source)
        for name, limit in self._limits.items():
            value = getattr(record, name)
            if limit is not None:
                value = int(value) if 0 <= value < limit else None
            elif isinstance(value, float):
                value = None if value == -1 else value
            elif isinstance(value, str):
                value = clean(value)
            values[name] = value
        return self.row(**values)


TABLES: dict[type[Message], str] = {
    counters.InterfaceCounters: "interface_counters",
    counters.EthernetCounters: "ethernet_counters",
    counters.TokenRingCounters: "token_ring_counters",
    counters.VgCounters: "vg_counters",
    counters.VlanCounters: "vlan_counters",
    counters.LagPortCounters: "lag_port_counters",
    counters.Processor: "processor_counters",
    counters.OpenFlowPort: "openflow_ports",
    counters.PortName: "port_names",
    hosts.HostDescription: "host_descriptions",
    hosts.HostParent: "host_parents",
    hosts.HostCpu: "host_cpu_counters",
    hosts.HostMemory: "host_memory_counters",
    hosts.HostDiskIo: "host_disk_counters",
    hosts.HostNetIo: "host_net_counters",
    hosts.VirtualNode: "virtual_node_counters",
    hosts.VirtualCpu: "virtual_cpu_counters",
    hosts.VirtualMemory: "virtual_memory_counters",
    hosts.VirtualDiskIo: "virtual_disk_counters",
    hosts.VirtualNetIo: "virtual_net_counters",
}
"""What the tables of counters are called; adapters are a list, and have none."""

_COUNTERS = {cls: CounterRows(cls, table) for cls, table in TABLES.items()}

if TYPE_CHECKING:
    Row: TypeAlias = Any
else:
    Row = Union[(FlowRow, *(rows.row for rows in _COUNTERS.values()))]
    """What a datagram's rows may be: so it is known which columns there are."""


def rows_of(datagram: Datagram) -> Iterator[Row]:
    """
    Give a datagram's rows.
    """
    agent = {
        "agent_address": datagram.agent_address,
        "sub_agent_id": datagram.sub_agent_id,
        "sys_uptime": datagram.uptime,
    }
    for sample in datagram.samples:
        data = sample.data
        if isinstance(data, bytes):
            continue  # of a format that is not known
        source = agent | {
            "sequence_number": data.sequence_number,
            "source_id_type": data.source_id_type,
            "source_id_index": data.source_id_index,
        }
        if isinstance(data, FlowSample | ExpandedFlowSample):
            yield _flow_row(source, data)
        else:
            for record in data.counters:
                rows = _COUNTERS.get(type(record.data))
                if rows is not None:
                    yield rows.make(source, record.data)


def _flow_row(
    source: dict[str, Any], sample: FlowSample | ExpandedFlowSample
) -> FlowRow:
    row = FlowRow(
        **source,
        sampling_rate=sample.sampling_rate,
        sample_pool=sample.sample_pool,
        drops=sample.drops,
        input_format=sample.input_format,
        input=sample.input,
        output_format=sample.output_format,
        output=sample.output,
    )
    for record in sample.flow_records:
        fill = _FILL.get(type(record.data))
        if fill is not None:
            fill(record.data, row)
    return row
