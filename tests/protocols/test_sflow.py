"""
sFlow: what the declarations allow and refuse, and the rows of samples.
"""

import struct

import pytest

from protocols import sflow as sf
from protocols.sflow import counters, flows, hosts
from protocols.sflow.packets import read_header
from protocols.sflow.rows import FlowRow
from protoserve import Direction, MalformedMessageError
from tests.packets import IPV6, ipv4, ipv6, udp_body
from tests.protocols import sflow_examples as examples
from tests.protocols.sflow_examples import ethernet, flow, header


def parsed(data):
    return sf.sflow.parse(data, Direction.REQUEST).message


def rows(*samples):
    return list(parsed(bytes(examples.datagram(*samples))).rows())


def test_everything():
    """Every sample and record comes back as it was built."""
    assert examples.EVERYTHING == parsed(bytes(examples.EVERYTHING))


def test_bytes():
    """A datagram has its bytes where the specification has them."""
    record = flows.ExtendedSwitch(10, 1, 20, 2)
    data = examples.datagram(flow(record, source_id_type=1, output_format=2, output=7))
    words = struct.unpack(f">{len(bytes(data)) // 4}I", bytes(data))
    assert words == (
        *(5, 1, 0xC00002FA, 1, 100, 5000, 1),  # the datagram
        *(1, 56, 7, 0x01000003, 512, 0, 0, 4, 0x80000007, 1),  # the sample
        *(1001, 16, 10, 1, 20, 2),  # the record
    )


def test_an_agent_with_ipv6():
    """An agent's address may be of either kind, and of no other."""
    data = examples.datagram(agent_address_type=2, agent_address="2001:db8::1")
    assert "2001:db8::1" == parsed(bytes(data)).agent_address
    other = bytearray(bytes(data))
    other[7] = 3
    with pytest.raises(MalformedMessageError, match="agent_address_type at offset 4"):
        parsed(bytes(other))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 130])
def test_alignment(size):
    """Opaque data of any length is filled up with zeros, which its length leaves out."""
    data = bytes(examples.datagram(flow(header(bytes(range(1, 1 + size))))))
    assert 0 == len(data) % 4
    message = parsed(data)
    (record,) = message.samples[0].data.flow_records
    assert bytes(range(1, 1 + size)) == record.data.header
    assert data == bytes(message)


@pytest.mark.parametrize("size", [0, 3, 4, 9])
def test_unknown_formats_are_kept(size):
    """Samples and records that are not known stay as bytes, whatever their length."""
    unknown = 4413 << 12 | 7
    record = sf.FlowRecord(unknown, bytes(size))
    sample = sf.Sample(unknown, bytes(range(size)))
    whole = examples.datagram(sample, flow(record, examples.SWITCH), sample)
    message = parsed(bytes(whole))
    assert whole == message
    (row,) = message.rows()
    assert 10 == row.src_vlan


def test_extended_structures_are_read():
    """What stands behind the fields that are known is skipped."""
    data = bytearray(bytes(examples.datagram(flow(examples.SWITCH))))
    data += bytes(8)
    for place in (32, 72):  # the lengths of the sample and of the record
        data[place : place + 4] = (int.from_bytes(data[place : place + 4]) + 8).to_bytes(4)  # fmt: skip
    message = parsed(bytes(data))
    assert examples.SWITCH == message.samples[0].data.flow_records[0].data


def test_a_header_without_what_fills_it_up():
    """Zeros that fill a header up may be counted in its record's length, or not."""
    data = bytearray(bytes(examples.datagram(flow(header(b"\x01\x02\x03\x04\x05")))))
    data[72:76] = (int.from_bytes(data[72:76]) - 3).to_bytes(4)
    (sample,) = parsed(bytes(data)).samples
    assert b"\x01\x02\x03\x04\x05" == sample.data.flow_records[0].data.header


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (3, 4, "version at offset 0: expected 5, found 4"),
        (24, 0x00FFFFFF, "samples"),
        (32, 0x7FFFFFFF, "data"),
        (64, 0x10000000, "flow_records"),
        (72, 0x40000000, "data"),
    ],
)
def test_hostile_numbers(place, value, match):
    """Lengths and counts that are not there cost their own datagram, and say so."""
    data = bytearray(bytes(examples.datagram(flow(examples.SWITCH))))
    if place == 3:
        data[3] = value
    else:
        data[place : place + 4] = value.to_bytes(4)
    with pytest.raises(MalformedMessageError, match=match):
        parsed(bytes(data))


def test_rows():
    """A flow sample is one row, and each counter record one of its own table."""
    found = list(examples.EVERYTHING.rows())
    tables = [getattr(type(row), "__table__", "") for row in found]
    assert ["flow_samples"] * 4 == tables[:4]
    assert [
        *("interface_counters", "ethernet_counters", "vlan_counters"),
        *("processor_counters", "token_ring_counters", "vg_counters"),
        *("host_descriptions", "host_parents", "host_cpu_counters"),
        *("host_memory_counters", "host_disk_counters", "host_net_counters"),
    ] == tables[4:]
    assert {"192.0.2.250"} == {row.agent_address for row in found}
    first, second, third, fourth = found[:4]
    assert ("192.0.2.1", "198.51.100.7", 6) == (
        first.src_ip,
        first.dst_ip,
        first.protocol,
    )
    assert (49152, 80, 0x12) == (first.src_port, first.dst_port, first.tcp_flags)
    assert (100, "02:00:5e:00:00:02") == (first.vlan, first.src_mac)
    assert (10, "192.0.2.254", "192.0.2.253") == (
        first.src_vlan,
        first.nexthop,
        first.bgp_nexthop,
    )
    assert [64500, 64501, 64502] == first.dst_as_path
    assert ("2001:db8::1", 5353, "alice") == (
        second.src_ip,
        second.src_port,
        second.src_user,
    )
    assert ("www.example.test", [0x81000064, 0x810000C8]) == (
        second.host,
        second.vlan_stack,
    )
    assert (1024, "10.0.0.1", [0x54321]) == (
        third.src_port,
        third.nat_src_address,
        third.out_stack,
    )
    assert ("2001:db8::2", 3) == (fourth.dst_ip, fourth.tos)
    cpu = found[12]
    assert (1.0, 8, 5000) == (cpu.load_one, cpu.uptime, cpu.sys_uptime)


def test_counters_that_an_agent_does_not_have():
    """A counter that is all ones is none; so are -1 % and what is beyond 63 bits."""
    absent = {"ifInOctets": 2**64 - 1, "ifOutOctets": 2**63, "ifInErrors": 2**32 - 1}
    (row,) = rows(examples.counted(examples.numbers(counters.InterfaceCounters, **absent)))  # fmt: skip
    assert (None, None, None) == (row.ifInOctets, row.ifOutOctets, row.ifInErrors)
    assert 1 == row.ifIndex
    assert "interface_counters" == type(row).__table__


def test_loads_that_an_agent_does_not_have():
    """A load average of -1 is none."""
    loads = {"load_one": -1.0, "load_five": 0.0, "load_fifteen": 1.5}
    (row,) = rows(examples.counted(examples.numbers(hosts.HostCpu, **loads)))
    assert (None, 0.0, 1.5) == (row.load_one, row.load_five, row.load_fifteen)


def test_text_that_is_no_utf_8():
    """It is kept in messages, replaced in tables, and costs nothing beside it."""
    name = "B\udcfcro"
    url = flows.ExtendedUrl(flows.UrlDirection.SRC, f"GET /{name}", name)
    samples = examples.counted(counters.PortName(name)), flow(url)
    data = bytes(examples.datagram(*samples))
    assert b"B\xfcro" in data
    assert data == bytes(parsed(data))
    port, packet = rows(*samples)
    assert ("B\ufffdro", "GET /B\ufffdro") == (port.name, packet.url)
    assert "B\ufffdro" == packet.host


def test_adapters_are_no_counters():
    """The list of a host's adapters is read, and is no row."""
    adapters = hosts.HostAdapters([hosts.HostAdapter(1, ["02:00:5e:00:00:01"] * 2)])
    sample = examples.counted(adapters)
    assert [] == rows(sample)
    read = parsed(bytes(examples.datagram(sample))).samples[0].data.counters[0].data
    assert adapters == read


def test_tables_are_made():
    """A collector makes tables of the rows, of which each has its columns."""
    pytest.importorskip("pyarrow", reason="tables are Arrow's")
    import numpy as np

    from protoserve import Peer
    from protoserve.telemetry.tables import Frames
    from protoserve.telemetry.tabulate import tabulator_of

    datagram, bad = bytes(examples.EVERYTHING), b"\x00\x05\x00\x01"
    data = np.frombuffer(datagram + bad + datagram, np.uint8)
    sizes = np.array([len(datagram), len(bad), len(datagram)])
    frames = Frames(
        data,
        np.array([0, sizes[0], sizes[0] + sizes[1]]),
        sizes,
        np.array([1, 2, 3]),
        np.zeros(3, np.int64),
        [Peer("udp", ("192.0.2.250", 40000))],
    )
    made = tabulator_of(sf.sflow).tables(frames)
    assert [1] == [refused.index for refused in made.refused]
    flows_table = made.tables["flow_samples"]
    assert 8 == flows_table.num_rows
    assert {"exporter", "received_at", "frame_length"} <= set(flows_table.column_names)
    assert 2 == made.tables["interface_counters"].num_rows


PACKETS = {
    "vlan in vlan": (
        ethernet(ipv4("192.0.2.1", "192.0.2.2", 17, udp_body(1, 2, b"")), tags=[5, 6]),
        {"vlan": 5, "src_port": 1, "dst_port": 2, "ethernet_type": 0x800},
    ),
    "icmp": (
        ethernet(ipv4("192.0.2.1", "192.0.2.2", 1, bytes([8, 3, 0, 0]))),
        {"protocol": 1, "icmp_type": 8, "icmp_code": 3, "src_port": None},
    ),
    "a later fragment": (
        ethernet(ipv4("192.0.2.1", "192.0.2.2", 17, bytes(8), fragment=2)),
        {"src_ip": "192.0.2.1", "src_port": None},
    ),
    "a cut header": (
        ethernet(ipv4("192.0.2.1", "192.0.2.2", 17, bytes(8)))[:33],
        {"ethernet_type": 0x800, "src_ip": None},
    ),
    "options": (
        ethernet(
            b"\x46"
            + ipv4("192.0.2.1", "192.0.2.2", 17, bytes(4) + udp_body(7, 9, b""))[1:]
        ),
        {"src_port": 7, "dst_port": 9},
    ),
    "a later fragment of IPv6": (
        ethernet(
            ipv6("2001:db8::1", "2001:db8::2", 44, bytes([17, 0, 0, 8, *bytes(12)])),
            IPV6,
        ),
        {"protocol": 17, "src_port": None},
    ),
    "labels": (
        ethernet(
            bytes.fromhex("0001003f0001013f")
            + ipv4("192.0.2.1", "192.0.2.2", 6, udp_body(5, 6, b"")),
            0x8847,
        ),
        {"src_ip": "192.0.2.1", "src_port": 5, "tcp_flags": None},
    ),
    "labels without an end": (ethernet(bytes(64), 0x8847), {"ethernet_type": 0x8847}),
    "a length and no type": (
        ethernet(bytes.fromhex("424203") + bytes(35), 38),
        {"vlan": None, "ethernet_type": None, "src_ip": None},
    ),
    "no IP": (ethernet(bytes(28), 0x0806), {"ethernet_type": 0x806, "src_ip": None}),
}
"""Packets, and what their columns are."""


def a_row():
    source = dict.fromkeys(
        ("sub_agent_id", "sys_uptime", "sequence_number", "source_id_type"), 0
    )
    sample = dict.fromkeys(
        ("sampling_rate", "sample_pool", "drops", "input_format", "input"), 0
    )
    others = {"source_id_index": 0, "output_format": 0, "output": 0}
    return FlowRow(agent_address="", **source, **sample, **others)


@pytest.mark.parametrize("name", PACKETS)
def test_sampled_packets(name):
    """A sampled header gives the columns that its bytes have room for."""
    packet, expected = PACKETS[name]
    row = a_row()
    read_header(flows.HeaderProtocol.ETHERNET_ISO88023, packet, row)
    assert expected == {key: getattr(row, key) for key in expected}


def test_extension_headers():
    """IPv6's extension headers are followed to the transport's."""
    body = (
        bytes([43, 0, *bytes(6)])  # hop by hop, then routing
        + bytes([51, 1, *bytes(14)])  # then authentication
        + bytes([44, 2, *bytes(14)])  # then a fragment, the first one
        + bytes([17, 0, 0, 1, *bytes(4)])
        + udp_body(3, 4, b"")
    )
    row = a_row()
    packet = ipv6("2001:db8::1", "2001:db8::2", 0, body)
    read_header(flows.HeaderProtocol.IPV6, packet, row)
    assert (17, 3, 4) == (row.protocol, row.src_port, row.dst_port)


@pytest.mark.parametrize("kind", [1, 2, 11, 12, 13, 99])
def test_cut_packets(kind):
    """A sampled header may end anywhere."""
    packets = [packet for packet, _ in PACKETS.values()]
    packets += [packet[14:] for packet in packets]
    for packet in packets:
        for end in range(len(packet) + 1):
            read_header(kind, packet[:end], a_row())
