"""
sFlow field by field as tshark reads it: the captures, and a datagram with everything.

tshark 4.0 knows no host records and reads the one of adapters (2001) as if a four-byte
alignment were missing in it, after which it is lost: such datagrams are compared up to
their first counters, and our own tests look at the rest.
"""

import subprocess

import pytest

from protocols import sflow as sf
from protocols.sflow import counters, flows, hosts
from protoserve import Direction, MalformedMessageError
from tests.captures import captures
from tests.packets import ETHERNET, pcap, udp
from tests.protocols import sflow_examples as examples

pytestmark = pytest.mark.interop

CAPTURES = [*captures("sflow"), *captures("recorded-here")]
CAPTURES = [path for path in CAPTURES if "sflow" in path.name]
BETWEEN, WITHIN = "\t", "\x1f"
PORTS = (6343, 16343)

NAMES = {
    sf.Datagram: {
        "version": "sflow_245.version",
        "sub_agent_id": "sflow_245.sub_agent_id",
        "sequence_number": "sflow_245.sequence_number",
        "uptime": "sflow_245.sysuptime",
        "count": "sflow_245.numsamples",
    },
    sf.Sample: {"length": "sflow_5.sample_length"},
    sf.FlowRecord: {"length": "sflow_5.flow_data_length"},
    sf.CounterRecord: {"length": "sflow_5.flow_data_length"},
    sf.FlowSample: {
        "sequence_number": "sflow.flow_sample.sequence_number",
        "sampling_rate": "sflow.flow_sample.sampling_rate",
        "sample_pool": "sflow.flow_sample.sample_pool",
        "drops": "sflow.flow_sample.dropped_packets",
        "input": "sflow.flow_sample.input_interface",
        "output_format": "sflow.flow_sample.output_interface_format",
        "output": "sflow.flow_sample.output_interface_value",
    },
    sf.ExpandedFlowSample: {
        "sequence_number": "sflow.flow_sample.sequence_number",
        "source_id_type": "sflow.flow_sample.source_id_type",
        "source_id_index": "sflow.flow_sample.source_id_index",
        "sampling_rate": "sflow.flow_sample.sampling_rate",
        "sample_pool": "sflow.flow_sample.sample_pool",
        "drops": "sflow.flow_sample.dropped_packets",
        "input_format": "sflow.flow_sample.input_interface_format",
        "input": "sflow.flow_sample.input_interface_value",
        "output_format": "sflow.flow_sample.output_interface.format",
        "output": "sflow.flow_sample.output_interface_value",
    },
    sf.CountersSample: {
        "sequence_number": "sflow.counters_sample.sequence_number",
        "source_id_type": "sflow.counters_sample.source_id_type",
        "source_id_index": "sflow.counters_sample.source_id_index",
    },
    flows.SampledHeader: {
        "protocol": "sflow_245.header_protocol",
        "frame_length": "sflow_245.header.frame_length",
        "stripped": "sflow_245.header.payload_stripped",
        "header_length": "sflow_245.header.sampled_header_length",
        "header": "sflow_245.header",
    },
    flows.SampledEthernet: {
        "length": "sflow_245.ethernet.length",
        "type": "sflow_245.ethernet.packet_type",
    },
    flows.SampledIPv4: {
        "length": "sflow_245.ip.length",
        "protocol": "sflow.ip_protocol",
        "src_ip": "sflow_245.ipv4_src",
        "dst_ip": "sflow_245.ipv4_dst",
        "src_port": "sflow_245.ip.source_port",
        "dst_port": "sflow.ip.destination_port",
    },
    flows.SampledIPv6: {
        "length": "sflow_245.ip.length",
        "protocol": "sflow.ip_protocol",
        "src_ip": "sflow_245.ipv6_src",
        "dst_ip": "sflow_245.ipv6_dst",
        "src_port": "sflow_245.ip.source_port",
        "dst_port": "sflow.ip.destination_port",
        "priority": "sflow_245.ipv6_priority",
    },
    flows.ExtendedSwitch: {
        "src_vlan": "sflow_245.vlan.in",
        "src_priority": "sflow_245.pri.in",
        "dst_vlan": "sflow_245.vlan.out",
        "dst_priority": "sflow_245.pri.out",
    },
    flows.ExtendedRouter: {
        "src_mask_len": "sflow_245.nexthop.src_mask",
        "dst_mask_len": "sflow_245.nexthop.dst_mask",
    },
    flows.ExtendedGateway: {
        "as_number": "sflow_245.as",
        "src_as": "sflow_245.srcAS",
        "src_peer_as": "sflow_245.peerAS",
        "communities": "sflow_245.dstAS",  # it has one name for both
        "localpref": "sflow_245.localpref",
    },
    flows.AsPathSegment: {"type": "sflow.as_type", "numbers": "sflow_245.dstAS"},
    flows.ExtendedUser: {
        "src_charset": "sflow_5.extended_user.source_character_set",
        "src_user": "sflow_5.extended_user.source_user",
        "dst_charset": "sflow_5.extended_user.destination_character_set",
        "dst_user": "sflow_5.extended_user.destination_user",
    },
    flows.ExtendedUrl: {
        "direction": "sflow_5.extended_url.direction",
        "url": "sflow_5.extended_url.url",
        "host": "sflow_5.extended_url.host",
    },
    flows.ExtendedMpls: {
        "in_stack": "sflow_245.extended_mpls.in_label",
        "out_stack": "sflow_245.extended_mpls.out_label",
    },
    flows.ExtendedNat: {
        "src_address": "sflow_245.ipv4_src",
        "dst_address": "sflow_245.ipv4_dst",
    },
    flows.ExtendedMplsTunnel: {
        "tunnel_lsp_name": "sflow_5.extended_mpls_tunnel.tunnel_name",
        "tunnel_id": "sflow_5.extended_mpls_tunnel.id",
        "tunnel_cos": "sflow_5.extended_mpls_tunnel.cos_value",
    },
    flows.ExtendedMplsVc: {
        "vc_instance_name": "sflow_5.extended_mpls_vc.vc_instance_name",
        "vll_vc_id": "sflow_5.extended_mpls_vc.id",
        "vc_label_cos": "sflow_5.extended_mpls_vc.label_cos_value",
    },
    flows.ExtendedMplsFtn: {
        "mplsFTNDescr": "sflow_5.extended_mpls.ftn_description",
        "mplsFTNMask": "sflow_5.extended_mpls.ftn_mask",
    },
    flows.ExtendedMplsLdpFec: {
        "mplsFecAddrPrefixLength": "sflow_5.extended_mpls.fec_address_prefix_length"
    },
    flows.ExtendedVlanTunnel: {"stack": "sflow_5.extended_vlan_tunnel.tpid_tci_pair"},
    counters.InterfaceCounters: {
        "ifIndex": "sflow_245.ifindex",
        "ifType": "sflow_245.iftype",
        "ifSpeed": "sflow_245.ifspeed",
        "ifDirection": "sflow_245.ifdirection",
        "ifInOctets": "sflow_245.ifinoct",
        "ifInUcastPkts": "sflow_245.ifinpkt",
        "ifInMulticastPkts": "sflow_245.ifinmcast",
        "ifInBroadcastPkts": "sflow_245.ifinbcast",
        "ifInDiscards": "sflow_245.ifindisc",
        "ifInErrors": "sflow_245.ifinerr",
        "ifInUnknownProtos": "sflow_245.ifinunk",
        "ifOutOctets": "sflow_245.ifoutoct",
        "ifOutUcastPkts": "sflow_245.ifoutpkt",
        "ifOutMulticastPkts": "sflow_245.ifoutmcast",
        "ifOutBroadcastPkts": "sflow_245.ifoutbcast",
        "ifOutDiscards": "sflow_245.ifoutdisc",
        "ifOutErrors": "sflow_245.ifouterr",
        "ifPromiscuousMode": "sflow_245.ifpromisc",
    },
    counters.Processor: {
        "cpu_5s": "sflow_5.cpu_5s",
        "cpu_1m": "sflow_5.cpu_1m",
        "cpu_5m": "sflow_5.cpu_5m",
        "total_memory": "sflow_5.total_memory",
        "free_memory": "sflow_5.free_memory",
    },
}
"""What tshark calls our fields. Others it shows under a name of a MIB, as we do."""
NAMES[sf.ExpandedCountersSample] = NAMES[sf.CountersSample]
for cls in (counters.EthernetCounters, counters.TokenRingCounters, counters.VgCounters, counters.VlanCounters):  # fmt: skip
    NAMES[cls] = {
        field.name: f"sflow_245.{field.name}".replace("Recoverys", "Recoveries")
        for field in cls.construct.fields
    }

ALL = sorted({name for names in NAMES.values() for name in names.values()})
COLUMNS = {
    "src_ip": ("ip.src", "ipv6.src"),
    "dst_ip": ("ip.dst", "ipv6.dst"),
    "src_port": ("udp.srcport", "tcp.srcport"),
    "dst_port": ("udp.dstport", "tcp.dstport"),
    "src_mac": ("eth.src",),
    "dst_mac": ("eth.dst",),
    "vlan": ("vlan.id",),
}
"""What the sampled packet's columns are called by tshark."""
OUTER = {"eth.src", "eth.dst", "ip.src", "ip.dst", "udp.srcport", "udp.dstport"}
"""What tshark shows of the datagram itself first."""
SHOWN = ["frame.number", "udp.payload", "_ws.malformed", *ALL]
SHOWN += [name for names in COLUMNS.values() for name in names]


@pytest.fixture(scope="module")
def tshark(require_program):
    """
    Give a function that lets tshark decode a capture: a mapping for each frame.
    """
    program = require_program("tshark")

    def run(path):
        command = [program, "-n", "-r", str(path), "-Y", "sflow", "-T", "fields"]
        command += ["-E", f"separator={BETWEEN}", "-E", f"aggregator={WITHIN}"]
        for port in PORTS:
            command += ["-d", f"udp.port=={port},sflow"]
        for name in SHOWN:
            command += ["-e", name]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, check=True
        )
        for line in done.stdout.splitlines():
            values = [v.split(WITHIN) if v else [] for v in line.split(BETWEEN)]
            yield dict(zip(SHOWN, values, strict=True))

    return run


def text(value):
    """
    Write a value as tshark does.
    """
    return value.hex() if isinstance(value, bytes) else str(value)


def fields_of(message):
    """
    Collect what tshark shall show, in the order of the wire.
    """
    found = {}
    names = NAMES.get(type(message), {})
    for field in type(message).construct.fields:
        if field.hidden:
            continue
        value = getattr(message, field.name)
        if isinstance(message, flows.ExtendedUser) and isinstance(value, bytes):
            value = value.decode()
        name = names.get(field.name)
        if name is not None:
            values = value if isinstance(value, list) else [value]
            found.setdefault(name, []).extend(
                text(int(v) if isinstance(v, int) else v) for v in values
            )
        for inner in value if isinstance(value, list) else [value]:
            if hasattr(type(inner), "construct"):
                for key, values in fields_of(inner).items():
                    found.setdefault(key, []).extend(values)
    return found


def expected_columns(message):
    """
    Collect what the sampled packets' columns hold.
    """
    rows = [r for r in message.rows() if getattr(r, "header_protocol", None)]
    return {
        name: [str(v) for row in rows if (v := getattr(row, name)) is not None]
        for name in COLUMNS
    }


def plain(value):
    """
    Write a number in decimal where tshark shows it in hex.
    """
    return str(int(value, 16)) if value.startswith("0x") else value


def compare(frame):
    """
    Hold a datagram against what tshark shows; give what we read.
    """
    data = bytes.fromhex(frame["udp.payload"][0])
    message = sf.sflow.parse(data, Direction.REQUEST).message
    found = fields_of(message)
    sizes = frame["sflow_245.header.sampled_header_length"]
    frame["sflow_245.header"] = [  # tshark shows what fills it up as well
        shown[: 2 * int(size)]
        for shown, size in zip(frame["sflow_245.header"], sizes, strict=True)
    ]
    if frame["_ws.malformed"]:
        records = [c.data for s in message.samples for c in s.data.counters]
        assert any(isinstance(record, hosts.HostAdapters) for record in records)
        found = {name: found[name] for name in NAMES[sf.Datagram].values()}
    for name, values in found.items():
        assert values == list(map(plain, frame[name])), name
    shown = {
        name: [v for key in keys for v in frame[key][key in OUTER :]]
        for name, keys in COLUMNS.items()
    }
    for name, values in expected_columns(message).items():
        assert sorted(values) == sorted(shown[name]), name
    return message


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_captures(tshark, path):
    """
    tshark shows the values that we read, of every datagram that is sFlow version 5.
    """
    compared = 0
    for frame in tshark(path):
        compare(frame)
        compared += 1
    assert compared


def test_everything(tshark, tmp_path):
    """
    tshark reads what we build: each kind of sample, and each record that it knows.
    """
    path = tmp_path / "sflow.pcap"
    known = examples.datagram(*examples.EVERYTHING.samples[:-1])
    packet = udp(("192.0.2.250", 40000), ("192.0.2.9", 6343), bytes(known))
    path.write_bytes(pcap([examples.ethernet(packet)], ETHERNET))
    (frame,) = tshark(path)
    assert frame["_ws.malformed"] == []
    message = compare(frame)
    assert known == message


def test_other_protocols_are_refused():
    """
    NetFlow that comes to sFlow's port is told apart by the version.
    """
    with pytest.raises(MalformedMessageError, match="version at offset 0: expected 5"):
        sf.sflow.parse(bytes.fromhex("00050001") + bytes(68), Direction.REQUEST)
