"""
Flows as tshark reads them, record by record, in the captures beside the checkout.
"""

import subprocess
from ipaddress import ip_address
from xml.etree import ElementTree as ET

import pytest

from protocols.netflow import Decoded, Definition, Flow5, NetFlow5
from tests.captures import captures
from tests.protocols.netflow.blocks import captured, parsed

pytestmark = pytest.mark.interop

CAPTURES = [
    path
    for folder in ("netflow5", "netflow9", "ipfix", "recorded-here")
    for path in captures(folder)
    if folder != "recorded-here" or path.stem in ("netflow5-pmacctd", "ipfix-pmacctd")
]

SHOWN = {
    "cflow.srcaddr": ("sourceIPv4Address", "srcaddr"),
    "cflow.dstaddr": ("destinationIPv4Address", "dstaddr"),
    "cflow.srcaddrv6": ("sourceIPv6Address",),
    "cflow.dstaddrv6": ("destinationIPv6Address",),
    "cflow.nexthop": ("ipNextHopIPv4Address", "nexthop"),
    "cflow.bgpnexthop": ("bgpNextHopIPv4Address",),
    "cflow.protocol": ("protocolIdentifier", "prot"),
    "cflow.srcport": ("sourceTransportPort", "srcport"),
    "cflow.dstport": ("destinationTransportPort", "dstport"),
    "cflow.inputint": ("ingressInterface", "input"),
    "cflow.outputint": ("egressInterface", "output"),
    "cflow.octets": ("octetDeltaCount", "dOctets"),
    "cflow.packets": ("packetDeltaCount", "dPkts"),
    "cflow.srcas": ("bgpSourceAsNumber", "src_as"),
    "cflow.dstas": ("bgpDestinationAsNumber", "dst_as"),
    "cflow.srcmask": ("sourceIPv4PrefixLength", "src_mask"),
    "cflow.dstmask": ("destinationIPv4PrefixLength", "dst_mask"),
    "cflow.ip_version": ("ipVersion",),
    "cflow.srcmac": ("sourceMacAddress",),
    "cflow.dstmac": ("destinationMacAddress",),
    "cflow.ttl_min": ("minimumTTL",),
    "cflow.ttl_max": ("maximumTTL",),
    "cflow.vlanid": ("vlanId",),
    "cflow.sampling_population": ("samplingPopulation",),
    "cflow.sampler_name": ("samplerName",),
    "cflow.selector_name": ("selectorName",),
    "cflow.if_name": ("interfaceName",),
    "cflow.vrfname": ("VRFname",),
}
"""What tshark calls a field, and what the standards call it."""


def dissected(tshark, path):
    """Give each datagram's flows: the bytes of each, and its fields as shown."""
    ports = {segment.target_port for segment in captured(path)}
    words = [w for port in ports for w in ("-d", f"udp.port=={port},cflow")]
    run = [tshark, "-n", "-r", str(path), "-T", "pdml", *words]
    printed = subprocess.run(run, check=True, capture_output=True, timeout=120).stdout
    for packet in ET.fromstring(printed).iter("packet"):
        found = []
        for part in packet.iterfind("proto[@name='cflow']"):
            for field in part.iter("field"):
                shown = field.get("show", "")
                if shown.startswith(("Flow ", "pdu ")) and field.get("value"):
                    each = [(f.get("name"), f.get("show")) for f in field.iter("field")]
                    found.append((bytes.fromhex(field.get("value")), each))
        yield found


def ours(message, known):
    """Give each flow of a message: its bytes, and its values."""
    if isinstance(message, NetFlow5):
        for flow in message.flows:
            names = [field.name for field in Flow5.construct.fields]
            yield bytes(flow), {name: getattr(flow, name) for name in names}
        return
    for each in message.sets:
        if not isinstance(each.content, Decoded):
            continue
        for place, item in enumerate(each.content):
            if isinstance(item, Definition):
                known[item["id"]] = item.said
            elif known[each.id].layout.is_fixed:
                (size,) = known[each.id].layout.stretches
                yield each.content.data[place * size :][:size], item
            else:
                yield known[each.id].encode([item]), item


def same(value, shown):
    """Say whether a value is what tshark shows of it."""
    if isinstance(value, int):
        return value == int(ip_address(shown) if "." in shown else int(shown, 0))
    if "::" in value:
        return ip_address(value) == ip_address(shown)
    return value == shown


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_flows(path, require_program):
    """Each flow that tshark finds is found, of the same bytes and the same values."""
    segments = list(captured(path))
    messages = list(parsed([(each.source, each.payload) for each in segments]))
    known = {}
    compared = 0
    found = dissected(require_program("tshark"), path)
    for message, theirs in zip(messages, found, strict=True):
        flows = list(ours(message, known))
        if not theirs:
            continue
        for (data, fields), (whole, values) in zip(theirs, flows, strict=True):
            assert whole.startswith(data)  # it counts no variable fields
            for name, shown in fields:
                for ours_name in SHOWN.get(name, ()):
                    if ours_name in values:
                        assert same(values[ours_name], shown), (name, shown, values)
                        compared += 1
    assert bool(compared) == any(list(ours(m, dict(known))) for m in messages)


def test_captures_have_flows(require_program):
    """The comparison is about flows of all three versions."""
    if not CAPTURES:
        pytest.skip("the captures are not beside the checkout")
    tshark = require_program("tshark")
    counts = {"netflow5-pmacctd": 425, "ipfix-pmacctd": 429}
    counts["logstash-codec-netflow__netflow9_test_softflowd_tpl_data"] = 7
    paths = [path for path in CAPTURES if path.stem in counts]
    assert counts == {p.stem: sum(map(len, dissected(tshark, p))) for p in paths}
