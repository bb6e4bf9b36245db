"""
Clients of NetFlow, IPFIX and sFlow as ``protoserve export`` writes them, unedited,
against nfdump's collectors: what these show is what was sent.
"""

from ipaddress import ip_address

import pytest

from protocols import netflow, sflow
from protocols.sflow.flows import HeaderProtocol, SampledHeader
from tests.interop.netflow_tools import collector, dumped
from tests.packets import udp

pytestmark = pytest.mark.interop

NOW = 1_767_225_600
"""When the flows are exported: seconds since 1970."""

ELEMENTS = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (2, 4), (1, 4))
TIMES = {netflow.V9: ((22, 4), (21, 4)), netflow.IPFIX: ((152, 8), (153, 8))}
"""When a flow began and ended: since the exporter started, or since 1970."""
NAMES = (
    *("sourceIPv4Address", "destinationIPv4Address", "sourceTransportPort"),
    *("destinationTransportPort", "protocolIdentifier"),
    *("packetDeltaCount", "octetDeltaCount"),
)
FLOWS = {
    number: [
        (f"192.0.2.{number}", "198.51.100.7", 1000 + number, 443, 6, 3, 4000),
        (f"192.0.2.{number}", "198.51.100.8", 2000 + number, 53, 17, 1, 76),
    ]
    for number in (5, netflow.V9, netflow.IPFIX)
}
"""What is sent, by the version."""


def template_and_data(version):
    """Give a template and its records, each as the content of a set."""
    template = netflow.Template.of(256, ELEMENTS + TIMES[version], version=version)
    if version == netflow.V9:
        times = {"flowStartSysUpTime": 50_000, "flowEndSysUpTime": 50_250}
    else:
        began = NOW * 1000 - 10_000
        times = {"flowStartMilliseconds": began, "flowEndMilliseconds": began + 250}
    rows = [dict(zip(NAMES, flow, strict=True)) | times for flow in FLOWS[version]]
    return template.definition(), template.encode(rows)


def test_nfcapd(client_of, require_program, tmp_path):
    """nfcapd finds the flows of all three versions, of two by a template sent before."""
    with collector(require_program("nfcapd"), tmp_path) as port:
        client = client_of("protocols.netflow:netflow", f"udp://127.0.0.1:{port}")
        flows = [
            netflow.Flow5(
                srcaddr=int(ip_address(source)),
                dstaddr=int(ip_address(target)),
                dPkts=packets,
                dOctets=octets,
                First=50_000,
                Last=50_250,
                srcport=sport,
                dstport=dport,
                prot=protocol,
            )
            for source, target, sport, dport, protocol, packets, octets in FLOWS[5]
        ]
        client.net_flow5(60_000, NOW, flows=flows)
        made, data = template_and_data(netflow.V9)
        client.net_flow9(1, 60_000, NOW, 0, 7, [netflow.NetFlow9Set(0, made)])
        client.net_flow9(2, 60_000, NOW, 1, 7, [netflow.NetFlow9Set(256, data)])
        made, data = template_and_data(netflow.IPFIX)
        client.ipfix(NOW, 0, 7, [netflow.IpfixSet(2, made)])
        client.ipfix(NOW, 0, 7, [netflow.IpfixSet(256, data)])
    found = dumped(require_program("nfdump"), tmp_path)
    assert [flow for flows in FLOWS.values() for flow in flows] == list(
        map(shown, found)
    )
    times = {(flow["first"], flow["last"]) for flow in found}
    assert {("2025-12-31T23:59:50.000", "2025-12-31T23:59:50.250")} == times


def shown(flow):
    """Bring one of nfdump's flows to the form of ours."""
    names = ("src4_addr", "dst4_addr", "src_port", "dst_port", "proto")
    return tuple(flow[name] for name in (*names, "in_packets", "in_bytes"))


def test_sfcapd(client_of, require_program, tmp_path):
    """sfcapd finds the sampled packet, with its addresses, ports and rate."""
    packet = udp(("192.0.2.1", 5353), ("198.51.100.7", 53), bytes(40))
    header = SampledHeader(HeaderProtocol.IPV4, len(packet), header=packet)
    record = sflow.FlowRecord(sflow.FlowFormat.SAMPLED_HEADER, header)
    sample = sflow.FlowSample(
        sequence_number=1, sampling_rate=256, input=3, output=4, flow_records=[record]
    )
    with collector(require_program("sfcapd"), tmp_path) as port:
        client = client_of("protocols.sflow:sflow", f"udp://127.0.0.1:{port}")
        client.datagram(
            agent_address_type=sflow.AddressType.IP_V4,
            agent_address="203.0.113.9",
            sequence_number=1,
            uptime=60_000,
            samples=[sflow.Sample(sflow.SampleType.FLOW, sample)],
        )
    (flow,) = dumped(require_program("nfdump"), tmp_path)
    # It counts all packets that one sample stands for.
    packets = 256, 256 * len(packet)
    assert ("192.0.2.1", "198.51.100.7", 5353, 53, 17, *packets) == shown(flow)
    assert (1, 3, 4) == (flow["sampled"], flow["input_snmp"], flow["output_snmp"])
