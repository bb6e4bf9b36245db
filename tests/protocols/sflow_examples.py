"""
An sFlow datagram with every kind of sample and record in it.
"""

from protocols import sflow as sf
from protocols.sflow import counters, flows, hosts
from tests.packets import IPV4, IPV6, ipv4, ipv6, udp_body

MACS = bytes.fromhex("02005e000001 02005e000002")


def ethernet(packet, kind=IPV4, *, tags=()):
    """
    Make an Ethernet frame without its checksum.
    """
    tagged = b"".join(b"\x81\x00" + tag.to_bytes(2) for tag in tags)
    return MACS + tagged + kind.to_bytes(2) + packet


TCP = ipv4("192.0.2.1", "198.51.100.7", 6, bytes.fromhex("c0000050" + "00" * 8 + "5012") + bytes(6))  # fmt: skip
UDP6 = ipv6("2001:db8::1", "2001:db8::2", 17, udp_body(5353, 53, b"dns"))


def header(packet, protocol=flows.HeaderProtocol.ETHERNET_ISO88023):
    """
    Make the record of a sampled header.
    """
    sampled = flows.SampledHeader(protocol, len(packet) + 4, 4, packet)
    return sf.FlowRecord(sf.FlowFormat.SAMPLED_HEADER, sampled)


def flow(*records, cls=sf.FlowSample, **fields):
    """
    Make a flow sample.
    """
    known = {kind: number for number, kind in flows.FLOW_RECORDS.items()}
    made = [
        r if isinstance(r, sf.FlowRecord) else sf.FlowRecord(known[type(r)], r)
        for r in records
    ]
    values = (
        {"sequence_number": 7, "source_id_index": 3, "sampling_rate": 512}
        | {"input": 4, "output": 5}
        | fields
    )
    kind = sf.SampleType.FLOW if cls is sf.FlowSample else sf.SampleType.EXPANDED_FLOW
    return sf.Sample(kind, cls(flow_records=made, **values))


def counted(*records, cls=sf.CountersSample, **fields):
    """
    Make a sample of counters.
    """
    known = {kind: number for number, kind in sf.COUNTER_RECORDS.items()}
    made = [sf.CounterRecord(known[type(r)], r) for r in records]
    values = {"sequence_number": 9, "source_id_index": 3} | fields
    compact = cls is sf.CountersSample
    kind = sf.SampleType.COUNTERS if compact else sf.SampleType.EXPANDED_COUNTERS
    return sf.Sample(kind, cls(counters=made, **values))


def numbers(cls, **others):
    """
    Make a message of counters that are 1, 2, 3 and so on.
    """
    names = [field.name for field in cls.construct.fields]
    return cls(**{name: i + 1 for i, name in enumerate(names)} | others)


def datagram(*samples, **fields):
    """
    Make a datagram.
    """
    values = {"agent_address_type": 1, "agent_address": "192.0.2.250"}
    values |= {"sub_agent_id": 1, "sequence_number": 100, "uptime": 5000} | fields
    return sf.Datagram(samples=list(samples), **values)


PATH = [flows.AsPathSegment(2, [64500, 64501]), flows.AsPathSegment(1, [64502])]
LAYER_2 = flows.SampledEthernet(64, "02:00:5e:00:00:01", "02:00:5e:00:00:02", 0x800)
LAYER_3 = flows.SampledIPv4(40, 6, "192.0.2.1", "192.0.2.2", 1024, 80, 0x12, 0x10)
LAYER_3_6 = flows.SampledIPv6(60, 17, "2001:db8::1", "2001:db8::2", 53, 5353, 0, 3)
SWITCH = flows.ExtendedSwitch(10, 1, 20, 2)
ROUTER = flows.ExtendedRouter(1, "192.0.2.254", 24, 16)
ROUTER_6 = flows.ExtendedRouter(2, "2001:db8::fe", 64, 48)
GATEWAY = flows.ExtendedGateway(
    1, "192.0.2.253", 64496, 64497, 64498, PATH, [0xFBF00001, 2], 100
)
USER = flows.ExtendedUser(106, b"alice", 106, b"bob")
URL = flows.ExtendedUrl(1, "GET /index HTTP/1.1", "www.example.test")
MPLS = flows.ExtendedMpls(1, "192.0.2.252", [0x12345, 0x12346], [0x54321])
NAT = flows.ExtendedNat(1, "10.0.0.1", 1, "10.0.0.2")
TUNNEL = flows.ExtendedMplsTunnel("lsp-1", 5, 6)
CIRCUIT = flows.ExtendedMplsVc("vc-22", 7, 8)
FTN = flows.ExtendedMplsFtn("class", 9)
FEC = flows.ExtendedMplsLdpFec(24)
VLANS = flows.ExtendedVlanTunnel([0x81000064, 0x810000C8])

EVERYTHING = datagram(
    flow(
        header(ethernet(TCP, tags=[0x2064])),
        SWITCH,
        ROUTER,
        GATEWAY,
        output=2,
        output_format=1,
    ),
    flow(header(ethernet(UDP6, IPV6)), USER, URL, VLANS, cls=sf.ExpandedFlowSample),
    flow(LAYER_2, LAYER_3, NAT, MPLS),
    flow(LAYER_3_6, TUNNEL, CIRCUIT, FTN, FEC, ROUTER_6),
    counted(
        numbers(counters.InterfaceCounters),
        numbers(counters.EthernetCounters),
        numbers(counters.VlanCounters),
        numbers(counters.Processor),
    ),
    counted(
        numbers(counters.TokenRingCounters),
        numbers(counters.VgCounters),
        cls=sf.ExpandedCountersSample,
    ),
    counted(
        hosts.HostDescription("host-1", bytes(range(16)), 3, 2, "6.1"),
        hosts.HostAdapters([hosts.HostAdapter(2, ["02:00:5e:00:00:03"])]),
        numbers(hosts.HostParent),
        numbers(hosts.HostCpu),
        numbers(hosts.HostMemory),
        numbers(hosts.HostDiskIo),
        numbers(hosts.HostNetIo),
        source_id_type=2,
    ),
)
