"""
Counters of hosts, physical and virtual.

Source: sflow_host.txt.
"""
# ruff: noqa: N815 - the specification's names

from __future__ import annotations

import enum

from construct import Bytes, Float32b, Int32sb, Int32ub, Int64ub, PrefixedArray

from protocols.sflow.xdr import Mac, Text
from protoserve import Message, wire

__all__ = [
    "HostAdapter",
    "HostAdapters",
    "HostCpu",
    "HostDescription",
    "HostDiskIo",
    "HostMemory",
    "HostNetIo",
    "HostParent",
    "MachineType",
    "OsName",
    "VirtualCpu",
    "VirtualDiskIo",
    "VirtualMemory",
    "VirtualNetIo",
    "VirtualNode",
]


class MachineType(enum.IntEnum):
    """
    Families of processors.
    """

    UNKNOWN = 0
    OTHER = 1
    X86 = 2
    X86_64 = 3
    IA64 = 4
    SPARC = 5
    ALPHA = 6
    POWERPC = 7
    M68K = 8
    MIPS = 9
    ARM = 10
    HPPA = 11
    S390 = 12


class OsName(enum.IntEnum):
    """
    Operating systems.
    """

    UNKNOWN = 0
    OTHER = 1
    LINUX = 2
    WINDOWS = 3
    DARWIN = 4
    HPUX = 5
    AIX = 6
    DRAGONFLY = 7
    FREEBSD = 8
    NETBSD = 9
    OPENBSD = 10
    OSF = 11
    SOLARIS = 12
    JAVA = 13


class HostDescription(Message):
    """
    What host it is.
    """

    hostname: str = wire(Text, default="")
    uuid: bytes = wire(Bytes(16), default=bytes(16), doc="zeros: unknown")
    machine_type: MachineType | int = wire(Int32ub, enum=MachineType, default=0)
    os_name: OsName | int = wire(Int32ub, enum=OsName, default=0)
    os_release: str = wire(Text, default="")


class HostAdapter(Message):
    """
    A network adapter of a host.
    """

    ifIndex: int = wire(Int32ub)
    mac_addresses: list[str] = wire(PrefixedArray(Int32ub, Mac), factory=list)


class HostAdapters(Message):
    """
    The network adapters of a host.
    """

    adapters: list[HostAdapter] = wire(
        PrefixedArray(Int32ub, HostAdapter.construct), factory=list
    )


class HostParent(Message):
    """
    What a host runs on.
    """

    container_type: int = wire(Int32ub, doc="type of the data source")
    container_index: int = wire(Int32ub, doc="index of the data source")


class HostCpu(Message):
    """
    The processors of a host.
    """

    load_one: float = wire(Float32b, doc="load average over a minute; -1: unknown")
    load_five: float = wire(Float32b, doc="load average over 5 minutes; -1: unknown")
    load_fifteen: float = wire(
        Float32b, doc="load average over 15 minutes; -1: unknown"
    )
    proc_run: int = wire(Int32ub, doc="running processes")
    proc_total: int = wire(Int32ub)
    cpu_num: int = wire(Int32ub)
    cpu_speed: int = wire(Int32ub, unit="MHz")
    uptime: int = wire(Int32ub, unit="s")
    cpu_user: int = wire(Int32ub, unit="ms")
    cpu_nice: int = wire(Int32ub, unit="ms")
    cpu_system: int = wire(Int32ub, unit="ms")
    cpu_idle: int = wire(Int32ub, unit="ms")
    cpu_wio: int = wire(Int32ub, unit="ms", doc="waiting for I/O")
    cpu_intr: int = wire(Int32ub, unit="ms", doc="in interrupts")
    cpu_sintr: int = wire(Int32ub, unit="ms", doc="in soft interrupts")
    interrupts: int = wire(Int32ub)
    contexts: int = wire(Int32ub, doc="context switches")


class HostMemory(Message):
    """
    The memory of a host.
    """

    mem_total: int = wire(Int64ub, unit="bytes")
    mem_free: int = wire(Int64ub, unit="bytes")
    mem_shared: int = wire(Int64ub, unit="bytes")
    mem_buffers: int = wire(Int64ub, unit="bytes")
    mem_cached: int = wire(Int64ub, unit="bytes")
    swap_total: int = wire(Int64ub, unit="bytes")
    swap_free: int = wire(Int64ub, unit="bytes")
    page_in: int = wire(Int32ub)
    page_out: int = wire(Int32ub)
    swap_in: int = wire(Int32ub)
    swap_out: int = wire(Int32ub)


class HostDiskIo(Message):
    """
    The disks of a host.
    """

    disk_total: int = wire(Int64ub, unit="bytes")
    disk_free: int = wire(Int64ub, unit="bytes")
    part_max_used: int = wire(
        Int32sb, unit="%/100", doc="of the fullest partition; -1: unknown"
    )
    reads: int = wire(Int32ub)
    bytes_read: int = wire(Int64ub, unit="bytes")
    read_time: int = wire(Int32ub, unit="ms")
    writes: int = wire(Int32ub)
    bytes_written: int = wire(Int64ub, unit="bytes")
    write_time: int = wire(Int32ub, unit="ms")


class HostNetIo(Message):
    """
    The network traffic of a host.
    """

    bytes_in: int = wire(Int64ub, unit="bytes")
    pkts_in: int = wire(Int32ub)
    errs_in: int = wire(Int32ub)
    drops_in: int = wire(Int32ub)
    bytes_out: int = wire(Int64ub, unit="bytes")
    packets_out: int = wire(Int32ub)
    errs_out: int = wire(Int32ub)
    drops_out: int = wire(Int32ub)


class VirtualNode(Message):
    """
    A hypervisor.
    """

    mhz: int = wire(Int32ub, unit="MHz")
    cpus: int = wire(Int32ub)
    memory: int = wire(Int64ub, unit="bytes")
    memory_free: int = wire(Int64ub, unit="bytes")
    num_domains: int = wire(Int32ub, doc="active domains")


class VirtualCpu(Message):
    """
    The processors of a virtual host.
    """

    state: int = wire(Int32ub, doc="virDomainState")
    cpuTime: int = wire(Int32ub, unit="ms")
    nrVirtCpu: int = wire(Int32ub)


class VirtualMemory(Message):
    """
    The memory of a virtual host.
    """

    memory: int = wire(Int64ub, unit="bytes")
    maxMemory: int = wire(Int64ub, unit="bytes")


class VirtualDiskIo(Message):
    """
    The disks of a virtual host.
    """

    capacity: int = wire(Int64ub, unit="bytes")
    allocation: int = wire(Int64ub, unit="bytes")
    available: int = wire(Int64ub, unit="bytes")
    rd_req: int = wire(Int32ub)
    rd_bytes: int = wire(Int64ub, unit="bytes")
    wr_req: int = wire(Int32ub)
    wr_bytes: int = wire(Int64ub, unit="bytes")
    errs: int = wire(Int32ub)


class VirtualNetIo(Message):
    """
    The network traffic of a virtual host.
    """

    rx_bytes: int = wire(Int64ub, unit="bytes")
    rx_packets: int = wire(Int32ub)
    rx_errs: int = wire(Int32ub)
    rx_drop: int = wire(Int32ub)
    tx_bytes: int = wire(Int64ub, unit="bytes")
    tx_packets: int = wire(Int32ub)
    tx_errs: int = wire(Int32ub)
    tx_drop: int = wire(Int32ub)
