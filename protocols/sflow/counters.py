"""
Counters of interfaces and of what carries them.

A counter that the agent does not have is all ones. Names are those of the MIBs.

Source: sflow_version_5.txt section 5, "Counter Data Types"; sflow_lag.txt;
sflow_openflow.txt.
"""
# ruff: noqa: N815 - the MIBs' names

from __future__ import annotations

from construct import Int32sb, Int32ub, Int64ub

from protocols.sflow.xdr import Mac, Text
from protoserve import Message, wire

__all__ = [
    "EthernetCounters",
    "InterfaceCounters",
    "LagPortCounters",
    "OpenFlowPort",
    "PortName",
    "Processor",
    "TokenRingCounters",
    "VgCounters",
    "VlanCounters",
]


class InterfaceCounters(Message):
    """
    An interface (RFC 2233).
    """

    ifIndex: int = wire(Int32ub)
    ifType: int = wire(Int32ub)
    ifSpeed: int = wire(Int64ub, unit="bit/s")
    ifDirection: int = wire(
        Int32ub, doc="0 unknown, 1 full duplex, 2 half duplex, 3 in, 4 out"
    )
    ifStatus: int = wire(
        Int32ub, doc="bit 0: ifAdminStatus is up, bit 1: ifOperStatus is up"
    )
    ifInOctets: int = wire(Int64ub, unit="bytes")
    ifInUcastPkts: int = wire(Int32ub)
    ifInMulticastPkts: int = wire(Int32ub)
    ifInBroadcastPkts: int = wire(Int32ub)
    ifInDiscards: int = wire(Int32ub)
    ifInErrors: int = wire(Int32ub)
    ifInUnknownProtos: int = wire(Int32ub)
    ifOutOctets: int = wire(Int64ub, unit="bytes")
    ifOutUcastPkts: int = wire(Int32ub)
    ifOutMulticastPkts: int = wire(Int32ub)
    ifOutBroadcastPkts: int = wire(Int32ub)
    ifOutDiscards: int = wire(Int32ub)
    ifOutErrors: int = wire(Int32ub)
    ifPromiscuousMode: int = wire(Int32ub)


class EthernetCounters(Message):
    """
    An Ethernet interface (RFC 2358).
    """

    dot3StatsAlignmentErrors: int = wire(Int32ub)
    dot3StatsFCSErrors: int = wire(Int32ub)
    dot3StatsSingleCollisionFrames: int = wire(Int32ub)
    dot3StatsMultipleCollisionFrames: int = wire(Int32ub)
    dot3StatsSQETestErrors: int = wire(Int32ub)
    dot3StatsDeferredTransmissions: int = wire(Int32ub)
    dot3StatsLateCollisions: int = wire(Int32ub)
    dot3StatsExcessiveCollisions: int = wire(Int32ub)
    dot3StatsInternalMacTransmitErrors: int = wire(Int32ub)
    dot3StatsCarrierSenseErrors: int = wire(Int32ub)
    dot3StatsFrameTooLongs: int = wire(Int32ub)
    dot3StatsInternalMacReceiveErrors: int = wire(Int32ub)
    dot3StatsSymbolErrors: int = wire(Int32ub)


class TokenRingCounters(Message):
    """
    A token ring interface (RFC 1748).
    """

    dot5StatsLineErrors: int = wire(Int32ub)
    dot5StatsBurstErrors: int = wire(Int32ub)
    dot5StatsACErrors: int = wire(Int32ub)
    dot5StatsAbortTransErrors: int = wire(Int32ub)
    dot5StatsInternalErrors: int = wire(Int32ub)
    dot5StatsLostFrameErrors: int = wire(Int32ub)
    dot5StatsReceiveCongestions: int = wire(Int32ub)
    dot5StatsFrameCopiedErrors: int = wire(Int32ub)
    dot5StatsTokenErrors: int = wire(Int32ub)
    dot5StatsSoftErrors: int = wire(Int32ub)
    dot5StatsHardErrors: int = wire(Int32ub)
    dot5StatsSignalLoss: int = wire(Int32ub)
    dot5StatsTransmitBeacons: int = wire(Int32ub)
    dot5StatsRecoverys: int = wire(Int32ub)
    dot5StatsLobeWires: int = wire(Int32ub)
    dot5StatsRemoves: int = wire(Int32ub)
    dot5StatsSingles: int = wire(Int32ub)
    dot5StatsFreqErrors: int = wire(Int32ub)


class VgCounters(Message):
    """
    A 100 BaseVG interface (RFC 2020).
    """

    dot12InHighPriorityFrames: int = wire(Int32ub)
    dot12InHighPriorityOctets: int = wire(Int64ub)
    dot12InNormPriorityFrames: int = wire(Int32ub)
    dot12InNormPriorityOctets: int = wire(Int64ub)
    dot12InIPMErrors: int = wire(Int32ub)
    dot12InOversizeFrameErrors: int = wire(Int32ub)
    dot12InDataErrors: int = wire(Int32ub)
    dot12InNullAddressedFrames: int = wire(Int32ub)
    dot12OutHighPriorityFrames: int = wire(Int32ub)
    dot12OutHighPriorityOctets: int = wire(Int64ub)
    dot12TransitionIntoTrainings: int = wire(Int32ub)
    dot12HCInHighPriorityOctets: int = wire(Int64ub)
    dot12HCInNormPriorityOctets: int = wire(Int64ub)
    dot12HCOutHighPriorityOctets: int = wire(Int64ub)


class VlanCounters(Message):
    """
    A VLAN.
    """

    vlan_id: int = wire(Int32ub)
    octets: int = wire(Int64ub, unit="bytes")
    ucastPkts: int = wire(Int32ub)
    multicastPkts: int = wire(Int32ub)
    broadcastPkts: int = wire(Int32ub)
    discards: int = wire(Int32ub)


class LagPortCounters(Message):
    """
    A port of an aggregated link (IEEE 802.1AX MIB).
    """

    dot3adAggPortActorSystemID: str = wire(Mac)
    dot3adAggPortPartnerOperSystemID: str = wire(Mac)
    dot3adAggPortAttachedAggID: int = wire(Int32ub)
    dot3adAggPortState: int = wire(
        Int32ub, doc="actor's administrative and operative state, then the partner's"
    )
    dot3adAggPortStatsLACPDUsRx: int = wire(Int32ub)
    dot3adAggPortStatsMarkerPDUsRx: int = wire(Int32ub)
    dot3adAggPortStatsMarkerResponsePDUsRx: int = wire(Int32ub)
    dot3adAggPortStatsUnknownRx: int = wire(Int32ub)
    dot3adAggPortStatsIllegalRx: int = wire(Int32ub)
    dot3adAggPortStatsLACPDUsTx: int = wire(Int32ub)
    dot3adAggPortStatsMarkerPDUsTx: int = wire(Int32ub)
    dot3adAggPortStatsMarkerResponsePDUsTx: int = wire(Int32ub)


class Processor(Message):
    """
    The device's processor and memory.
    """

    cpu_5s: int = wire(Int32sb, unit="%/100", doc="load over 5 seconds; -1: unknown")
    cpu_1m: int = wire(Int32sb, unit="%/100", doc="load over a minute; -1: unknown")
    cpu_5m: int = wire(Int32sb, unit="%/100", doc="load over 5 minutes; -1: unknown")
    total_memory: int = wire(Int64ub, unit="bytes")
    free_memory: int = wire(Int64ub, unit="bytes")


class OpenFlowPort(Message):
    """
    An OpenFlow port.
    """

    datapath_id: int = wire(Int64ub)
    port_no: int = wire(Int32ub)


class PortName(Message):
    """
    The name of a port.
    """

    name: str = wire(Text)
