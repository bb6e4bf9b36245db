"""
Samples, and the records in them.

Everything that may be extended has its format and its length before it. What stands
behind the fields that are known is skipped, as the specification demands; what is
of another format altogether stays as bytes. Samples are *compact* or *expanded*: the
latter have room for interface numbers of 32 bits, and otherwise the same fields
under the same names.

Source: sflow_version_5.txt section 5.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from construct import (
    BitsInteger,
    FixedSized,
    GreedyBytes,
    Int32ub,
    PrefixedArray,
    Switch,
    this,
)

from protocols.sflow import counters, hosts
from protocols.sflow.flows import FLOW_RECORDS, FlowFormat
from protocols.sflow.xdr import FILLING
from protoserve import Message, length_of, wire

__all__ = [
    "COUNTER_RECORDS",
    "CounterFormat",
    "CounterRecord",
    "CountersSample",
    "ExpandedCountersSample",
    "ExpandedFlowSample",
    "FlowRecord",
    "FlowSample",
    "Sample",
    "SampleType",
]


class CounterFormat(enum.IntEnum):
    """
    The counter records of enterprise 0; others are ``enterprise << 12 | format``.
    """

    INTERFACE = 1
    ETHERNET = 2
    TOKEN_RING = 3
    VG = 4
    VLAN = 5
    LAG_PORT = 7
    PROCESSOR = 1001
    OPENFLOW_PORT = 1004
    PORT_NAME = 1005
    HOST_DESCRIPTION = 2000
    HOST_ADAPTERS = 2001
    HOST_PARENT = 2002
    HOST_CPU = 2003
    HOST_MEMORY = 2004
    HOST_DISK_IO = 2005
    HOST_NET_IO = 2006
    VIRTUAL_NODE = 2100
    VIRTUAL_CPU = 2101
    VIRTUAL_MEMORY = 2102
    VIRTUAL_DISK_IO = 2103
    VIRTUAL_NET_IO = 2104


COUNTER_RECORDS: dict[int, type[Message]] = {
    CounterFormat.INTERFACE: counters.InterfaceCounters,
    CounterFormat.ETHERNET: counters.EthernetCounters,
    CounterFormat.TOKEN_RING: counters.TokenRingCounters,
    CounterFormat.VG: counters.VgCounters,
    CounterFormat.VLAN: counters.VlanCounters,
    CounterFormat.LAG_PORT: counters.LagPortCounters,
    CounterFormat.PROCESSOR: counters.Processor,
    CounterFormat.OPENFLOW_PORT: counters.OpenFlowPort,
    CounterFormat.PORT_NAME: counters.PortName,
    CounterFormat.HOST_DESCRIPTION: hosts.HostDescription,
    CounterFormat.HOST_ADAPTERS: hosts.HostAdapters,
    CounterFormat.HOST_PARENT: hosts.HostParent,
    CounterFormat.HOST_CPU: hosts.HostCpu,
    CounterFormat.HOST_MEMORY: hosts.HostMemory,
    CounterFormat.HOST_DISK_IO: hosts.HostDiskIo,
    CounterFormat.HOST_NET_IO: hosts.HostNetIo,
    CounterFormat.VIRTUAL_NODE: hosts.VirtualNode,
    CounterFormat.VIRTUAL_CPU: hosts.VirtualCpu,
    CounterFormat.VIRTUAL_MEMORY: hosts.VirtualMemory,
    CounterFormat.VIRTUAL_DISK_IO: hosts.VirtualDiskIo,
    CounterFormat.VIRTUAL_NET_IO: hosts.VirtualNetIo,
}
"""The message of each counter record's format."""


def _one_of(key: Any, messages: Mapping[int, type[Message]]) -> FixedSized:
    """
    Make the format of what has its format and its length before it.
    """
    known = {int(number): cls.construct for number, cls in messages.items()}
    return FixedSized(this.length, Switch(key, known, default=GreedyBytes))


class FlowRecord(Message):
    """
    Something about a sampled packet.
    """

    flow_format: FlowFormat | int = wire(Int32ub, enum=FlowFormat)
    length: int = wire(Int32ub, value=length_of("data"), unit="bytes")
    data: Any = wire(_one_of(this.flow_format, FLOW_RECORDS))
    _padding: None = wire(FILLING, init=False)


class CounterRecord(Message):
    """
    A block of counters.
    """

    counter_format: CounterFormat | int = wire(Int32ub, enum=CounterFormat)
    length: int = wire(Int32ub, value=length_of("data"), unit="bytes")
    data: Any = wire(_one_of(this.counter_format, COUNTER_RECORDS))
    _padding: None = wire(FILLING, init=False)


class FlowSample(Message, kw_only=True):
    """
    A packet that was sampled.
    """

    sequence_number: int = wire(Int32ub, doc="of the source's flow samples")
    source_id_type: int = wire(
        BitsInteger(8), default=0, doc="0 ifIndex, 1 VLAN, 2 physical entity"
    )
    source_id_index: int = wire(BitsInteger(24), default=0)
    sampling_rate: int = wire(Int32ub, doc="one packet in so many")
    sample_pool: int = wire(Int32ub, default=0, doc="packets that might have been")
    drops: int = wire(Int32ub, default=0, doc="samples that the agent has lost")
    input_format: int = wire(BitsInteger(2), default=0)
    input: int = wire(
        BitsInteger(30), default=0, doc="interface; 0x3fffffff: the device"
    )
    output_format: int = wire(
        BitsInteger(2), default=0, doc="0 interface, 1 discarded, 2 several interfaces"
    )
    output: int = wire(
        BitsInteger(30), default=0, doc="interface, reason, or number of interfaces"
    )
    flow_records: list[FlowRecord] = wire(
        PrefixedArray(Int32ub, FlowRecord.construct), factory=list
    )


class ExpandedFlowSample(Message, kw_only=True):
    """
    A packet that was sampled, by a device with large interface numbers.
    """

    sequence_number: int = wire(Int32ub, doc="of the source's flow samples")
    source_id_type: int = wire(
        Int32ub, default=0, doc="0 ifIndex, 1 VLAN, 2 physical entity"
    )
    source_id_index: int = wire(Int32ub, default=0)
    sampling_rate: int = wire(Int32ub, doc="one packet in so many")
    sample_pool: int = wire(Int32ub, default=0, doc="packets that might have been")
    drops: int = wire(Int32ub, default=0, doc="samples that the agent has lost")
    input_format: int = wire(Int32ub, default=0)
    input: int = wire(Int32ub, default=0, doc="interface; 0x3fffffff: the device")
    output_format: int = wire(
        Int32ub, default=0, doc="0 interface, 1 discarded, 2 several interfaces"
    )
    output: int = wire(
        Int32ub, default=0, doc="interface, reason, or number of interfaces"
    )
    flow_records: list[FlowRecord] = wire(
        PrefixedArray(Int32ub, FlowRecord.construct), factory=list
    )


class CountersSample(Message, kw_only=True):
    """
    The counters of a source.
    """

    sequence_number: int = wire(Int32ub, doc="of the source's counter samples")
    source_id_type: int = wire(
        BitsInteger(8), default=0, doc="0 ifIndex, 1 VLAN, 2 physical entity"
    )
    source_id_index: int = wire(BitsInteger(24), default=0)
    counters: list[CounterRecord] = wire(
        PrefixedArray(Int32ub, CounterRecord.construct), factory=list
    )


class ExpandedCountersSample(Message, kw_only=True):
    """
    The counters of a source, of a device with large interface numbers.
    """

    sequence_number: int = wire(Int32ub, doc="of the source's counter samples")
    source_id_type: int = wire(
        Int32ub, default=0, doc="0 ifIndex, 1 VLAN, 2 physical entity"
    )
    source_id_index: int = wire(Int32ub, default=0)
    counters: list[CounterRecord] = wire(
        PrefixedArray(Int32ub, CounterRecord.construct), factory=list
    )


class SampleType(enum.IntEnum):
    """
    The samples of enterprise 0; others are ``enterprise << 12 | format``.
    """

    FLOW = 1
    COUNTERS = 2
    EXPANDED_FLOW = 3
    EXPANDED_COUNTERS = 4


_SAMPLES: dict[int, type[Message]] = {
    SampleType.FLOW: FlowSample,
    SampleType.COUNTERS: CountersSample,
    SampleType.EXPANDED_FLOW: ExpandedFlowSample,
    SampleType.EXPANDED_COUNTERS: ExpandedCountersSample,
}


class Sample(Message):
    """
    A sample of any kind.
    """

    sample_type: SampleType | int = wire(Int32ub, enum=SampleType)
    length: int = wire(Int32ub, value=length_of("data"), unit="bytes")
    data: Any = wire(_one_of(this.sample_type, _SAMPLES))
    _padding: None = wire(FILLING, init=False)
