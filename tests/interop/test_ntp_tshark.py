"""
NTP packets field by field as tshark reads them.

The packets are the vectors, and the captures that lie beside the checkout.
"""

import struct
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from protocols import ntp
from protoserve import Direction
from tests.captures import captures

pytestmark = pytest.mark.interop

VECTORS = Path(__file__).parents[1] / "vectors/ntp/packets.toml"
CAPTURES = captures("ntp")


def captured(datagrams):
    """
    Make a capture file of IPv4 datagrams to the NTP port.
    """
    whole = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for data in datagrams:
        ports = struct.pack(">HHHH", 40123, 123, 8 + len(data), 0)
        size = 28 + len(data)
        addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2])
        ip = struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, 17, 0) + addresses
        whole += struct.pack("<IIII", 0, 0, size, size) + ip + ports + data
    return whole


def dissected(tshark, path):
    """
    Give each datagram with what tshark finds in it: hex values by name.
    """
    run = [tshark, "-n", "-r", str(path), "-T", "pdml", "-d", "udp.port==123,ntp"]
    printed = subprocess.run(run, check=True, capture_output=True, timeout=60).stdout
    for packet in ET.fromstring(printed).iter("packet"):
        (data,) = packet.findall(".//field[@name='udp.payload']")
        fields = {}
        for field in packet.iterfind("proto[@name='ntp']//field"):
            fields.setdefault(field.get("name"), []).append(field.get("value"))
        yield bytes.fromhex(data.get("value")), fields


def number(value, size):
    return value.to_bytes(size, signed=value < 0).hex()


def time_packet(message):
    """
    Say what tshark shall find in a time packet.
    """
    return {
        "ntp.stratum": [number(message.stratum, 1)],
        "ntp.ppoll": [number(message.poll, 1)],
        "ntp.precision": [number(message.precision, 1)],
        "ntp.rootdelay": [number(message.root_delay, 4)],
        "ntp.rootdispersion": [number(message.root_dispersion, 4)],
        "ntp.refid": [message.reference_id.hex()],
        "ntp.reftime": [number(message.reference_timestamp, 8)],
        "ntp.org": [number(message.origin_timestamp, 8)],
        "ntp.rec": [number(message.receive_timestamp, 8)],
        "ntp.xmt": [number(message.transmit_timestamp, 8)],
        "ntp.ext.type": [number(e.kind, 2) for e in message.extensions],
        "ntp.ext.length": [number(e.length, 2) for e in message.extensions],
        "ntp.ext.value": [e.value.hex() for e in message.extensions],
        "ntp.keyid": [number(message.mac.key_id, 4)] if message.mac else [],
        "ntp.mac": [message.mac.digest.hex()]
        if message.mac and message.mac.digest
        else [],
    }


def control(message):
    """
    Say what tshark shall find in a control message.
    """
    words = [(message.association, message.status)]
    if message.response and message.opcode == ntp.Opcode.READ_STATUS:
        words += struct.iter_unpack(">HH", message.data)
    return {
        "ntp.ctrl.flags2.r": [f"{message.response:X}"],
        "ntp.ctrl.flags2.error": [f"{message.error:X}"],
        "ntp.ctrl.flags2.more": [f"{message.more:X}"],
        "ntp.ctrl.flags2.opcode": [f"{message.opcode:X}"],
        "ntp.ctrl.sequence": [number(message.sequence, 2)],
        "ntp.ctrl.associd": [number(association, 2) for association, _ in words],
        "ntp.ctrl.status": [number(status, 2) for _, status in words],
        "ntp.ctrl.offset": [number(message.offset, 2)],
        "ntp.ctrl.count": [number(message.count, 2)],
        "ntp.padding": [message.padding.hex()] if message.mac else [],
        "ntp.key_index": [number(message.mac.key_id, 4)] if message.mac else [],
        "ntp.key_signature": [message.mac.digest.hex()] if message.mac else [],
    }


NAMES = {
    ntp.SystemStatus: {
        "leap": "sys_status.li",
        "source": "sys_status.clksrc",
        "event_count": "sys_status.count",
        "event_code": "sys_status.code",
    },
    ntp.PeerStatus: {
        "configured": "peer_status.config",
        "authentication_enabled": "peer_status.authenable",
        "authentic": "peer_status.authentic",
        "reachable": "peer_status.reach",
        "broadcast": "peer_status.bcast",
        "selection": "peer_status.selection",
        "event_count": "peer_status.count",
        "event_code": "peer_status.code",
    },
    ntp.ErrorStatus: {"code": "err_status"},
}


def status_word(message, found):
    """
    Say what tshark shall find in a status word, where it takes it apart.
    """
    word = message.status_word
    return {
        f"ntp.ctrl.{theirs}": [f"{getattr(word, ours):X}"]
        for ours, theirs in NAMES[type(word)].items()
        if f"ntp.ctrl.{theirs}" in found
    }


def compare(data, found):
    """
    Hold what we read against what tshark reads, field by field.
    """
    mode = data[0] & 7
    way = Direction.RESPONSE if mode == ntp.Mode.SERVER else Direction.REQUEST
    parsed = ntp.ntp.parse(data, way)
    header, message = parsed.header, parsed.message
    expected = {
        "ntp.flags.vn": [f"{header.version:X}"],
        "ntp.flags.mode": [f"{header.mode:X}"],
    }
    if isinstance(message, ntp.TimePacket):
        expected |= {"ntp.flags.li": [f"{header.leap:X}"]} | time_packet(message)
    elif isinstance(message, ntp.Control):
        expected |= control(message) | status_word(message, found)
    else:
        assert data[1:] == message.data
    assert expected == {name: found.get(name, []) for name in expected}


@pytest.fixture
def vectors(tmp_path):
    """
    The vectors as a capture file.
    """
    packets = tomllib.loads(VECTORS.read_text())["packet"]
    path = tmp_path / "vectors.pcap"
    path.write_bytes(captured(bytes.fromhex(packet["hex"]) for packet in packets))
    return path


@pytest.mark.parametrize("path", [None, *CAPTURES], ids=lambda p: p.name if p else "-")
def test_fields(require_program, vectors, path):
    """
    tshark reads every packet as we do.
    """
    packets = list(dissected(require_program("tshark"), path or vectors))
    assert packets
    for data, found in packets:
        compare(data, found)
