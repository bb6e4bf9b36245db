"""
collectd datagrams field by field as tshark reads them: the captures.

Compared are the types, lengths and contents of all parts. tshark 4.0 takes no gauge
apart whose datagram it finds malformed, which are damaged ones: we refuse those.
"""

import struct
import subprocess
from xml.etree import ElementTree as ET

import pytest

from protocols import collectd as cd
from protoserve import Direction, MalformedMessageError
from tests.captures import captures

pytestmark = pytest.mark.interop

CAPTURES = [*captures("collectd"), *captures("recorded-here")]
CAPTURES = [path for path in CAPTURES if "collectd" in path.name]
PORTS = (25826, 25998, 25999)

TEXTS = {
    cd.PartType.HOST: "collectd.data.host",
    cd.PartType.PLUGIN: "collectd.data.plugin",
    cd.PartType.PLUGIN_INSTANCE: "collectd.data.plugin.inst",
    cd.PartType.TYPE: "collectd.data.type",
    cd.PartType.TYPE_INSTANCE: "collectd.data.type.inst",
    cd.PartType.MESSAGE: "collectd.data.message",
}
NUMBERS = {
    cd.PartType.TIME: "collectd.data.time",
    cd.PartType.TIME_HR: "collectd.data.time",
    cd.PartType.INTERVAL: "collectd.data.interval",
    cd.PartType.INTERVAL_HR: "collectd.data.interval",
    cd.PartType.SEVERITY: "collectd.data.severity",
}
VALUES = {
    cd.ValueType.COUNTER: ("collectd.val.counter", ">Q"),
    cd.ValueType.GAUGE: ("collectd.val.gauge", ">d"),
    cd.ValueType.DERIVE: ("collectd.val.derive", ">q"),
    cd.ValueType.ABSOLUTE: ("collectd.val.absolute", ">Q"),
}


@pytest.fixture(scope="module")
def tshark(require_program):
    """
    Give a function that lets tshark decode a capture: bytes, parts, and whether it
    finds something wrong, of each datagram.
    """
    program = require_program("tshark")

    def run(path):
        command = [program, "-n", "-r", str(path), "-Y", "collectd", "-T", "pdml"]
        for port in PORTS:
            command += ["-d", f"udp.port=={port},collectd"]
        done = subprocess.run(command, capture_output=True, timeout=100, check=True)
        for packet in ET.fromstring(done.stdout).iter("packet"):
            payload = packet.find(".//field[@name='udp.payload']").get("value")
            tree = packet.find("proto[@name='collectd']")
            wrong = packet.find(".//field[@name='_ws.expert']") is not None
            parts = [
                [(f.get("name"), f.get("value")) for f in part.iter("field")]
                for part in tree.findall("field")
            ]
            yield bytes.fromhex(payload), parts, wrong

    return run


def expected(part):
    """
    Say what tshark shall show in a part, apart from its type and length.
    """
    value = part.value
    if part.type in TEXTS:
        return [(TEXTS[part.type], f"{value.encode().hex()}00")]
    if part.type in NUMBERS:
        return [(NUMBERS[part.type], f"{value:016x}")]
    if part.type == cd.PartType.VALUES:
        shown = [("collectd.data.valcnt", f"{value.count:04x}")]
        for kind, number in zip(value.types, value.values, strict=True):
            name, form = VALUES[kind]
            packed = struct.pack(form.replace(">d", "<d"), number)
            shown += [("collectd.val.type", f"{kind:02x}"), (name, packed.hex())]
        return shown
    if part.type == cd.PartType.SIGNATURE:
        return [
            ("collectd.data.sighash", value.mac.hex()),
            ("collectd.data.username", value.username.encode().hex()),
        ]
    return []


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_captures(tshark, path):
    """
    tshark shows the parts that we read; what it finds broken, we refuse or skip.
    """
    compared = 0
    for data, shown, wrong in tshark(path):
        try:
            packet = cd.collectd.parse(data, Direction.REQUEST).message
        except MalformedMessageError:
            assert wrong
            continue
        assert len(packet.parts) == len(shown)
        for part, fields in zip(packet.parts, shown, strict=True):
            found = dict(fields)
            assert f"{part.type:04x}" == found["collectd.type"]
            assert f"{part.length:04x}" == found["collectd.len"]
            names = {name for name, _ in expected(part)}
            assert expected(part) == [f for f in fields if f[0] in names]
        compared += 1
    assert compared
