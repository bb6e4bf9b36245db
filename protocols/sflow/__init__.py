"""
sFlow version 5: packets sampled by switches and routers, and their counters.

`sflow` is the protocol: datagrams only, all of them a `Datagram`. Its samples are of
`protocols.sflow.samples`, the records in them of `protocols.sflow.flows`,
`protocols.sflow.counters` and `protocols.sflow.hosts`. A collector stores a row for
each flow sample and each counter record (`protocols.sflow.rows`), after having read
the sampled packet's addresses and ports (`protocols.sflow.packets`).

Specifications, all of sflow.org: sflow_version_5.txt, sflow_host.txt, sflow_lag.txt,
sflow_openflow.txt.

>>> datagram = Datagram(agent_address_type=1, agent_address="192.0.2.1")
>>> bytes(datagram)[:12].hex(" ", 4)
'00000005 00000001 c0000201'
"""

from __future__ import annotations

from collections.abc import Iterator

from construct import Array, Const, Int32ub, this

from protocols.sflow.flows import FlowFormat
from protocols.sflow.rows import FlowRow, Row, rows_of
from protocols.sflow.samples import (
    COUNTER_RECORDS,
    CounterFormat,
    CounterRecord,
    CountersSample,
    ExpandedCountersSample,
    ExpandedFlowSample,
    FlowRecord,
    FlowSample,
    Sample,
    SampleType,
)
from protocols.sflow.xdr import AddressType, address
from protoserve import Message, Numbered, Protocol, count_of, wire

__all__ = [
    "COUNTER_RECORDS",
    "AddressType",
    "CounterFormat",
    "CounterRecord",
    "CountersSample",
    "Datagram",
    "ExpandedCountersSample",
    "ExpandedFlowSample",
    "FlowFormat",
    "FlowRecord",
    "FlowRow",
    "FlowSample",
    "Sample",
    "SampleType",
    "sflow",
]


class Datagram(Message, kw_only=True):
    """
    What an agent sends: samples of packets and of counters.
    """

    version: int = wire(Const(5, Int32ub), init=False)
    agent_address_type: AddressType = wire(Int32ub, enum=AddressType, strict=True)
    agent_address: str = wire(address(this.agent_address_type))
    sub_agent_id: int = wire(Int32ub, default=0)
    sequence_number: int = wire(Int32ub, default=0, doc="of the sub-agent's datagrams")
    uptime: int = wire(Int32ub, default=0, unit="ms")
    count: int = wire(Int32ub, value=count_of("samples"))
    samples: list[Sample] = wire(Array(this.count, Sample.construct), factory=list)

    def rows(self) -> Iterator[Row]:
        """
        Give what a collector stores: a row for each flow sample and counter record.
        """
        return rows_of(self)


sflow = Protocol(
    "sflow",
    messages=Datagram,
    ports={"udp": 6343},
    numbered=Numbered("sequence_number", streams=("agent_address", "sub_agent_id")),
    doc="sFlow version 5: sampled packets and counters (sflow.org)",
)
