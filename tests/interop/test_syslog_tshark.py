"""
Captured log entries are what tshark, of Wireshark, says that they are.
"""

import datetime as dt
import json
import subprocess

import pytest

from protocols import syslog
from protoserve import Direction
from tests.captures import captures

pytestmark = pytest.mark.interop

OLD = "syslog.timestamp_rfc3164"
SIZES = {"ndpi__syslog.pcap": 83, "tcpdump__syslog_udp.pcap": 4}


def dissected(program, path):
    """The payload and the dissector's fields of each entry in a capture."""
    command = [program, "-r", path, "-T", "json", "-x", "-Y", "udp && syslog"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    for packet in json.loads(done.stdout):
        layers = packet["_source"]["layers"]
        fields = layers["syslog"]
        tree = fields.get("syslog.msg_tree", {})
        payload = layers["udp"]["udp.payload_raw"][0]
        yield bytes.fromhex(payload), {**fields, **tree}


@pytest.mark.parametrize("name", SIZES)
def test_captures(require_program, name):
    """Each entry has the values that tshark shows."""
    paths = [path for path in captures("syslog") if path.name == name]
    if not paths:
        pytest.skip(f"the capture {name} is not there")
    seen = 0
    for payload, shown in dissected(require_program("tshark"), paths[0]):
        entry = syslog.syslog.parse(payload, Direction.REQUEST).message.entry
        seen += 1
        assert int(shown["syslog.facility"]) == entry.facility
        assert int(shown["syslog.level"]) == entry.severity
        assert shown["syslog.msg"].rstrip("\r\n\0").endswith(entry.message)
        if "syslog.version" in shown:
            assert int(shown["syslog.version"]) == entry.version
            assert shown["syslog.appname"] == entry.app_name
            expected = shown["syslog.procid"]
            assert (None if expected == "-" else expected) == entry.procid
            moment = dt.datetime.fromisoformat(entry.timestamp).timestamp()
            expected = shown["syslog.timestamp"].partition(".")[0]
            then = dt.datetime.strptime(f"{expected} +0000", "%b %d, %Y %H:%M:%S %z")
            assert int(then.timestamp()) == int(moment)
        else:
            assert entry.version is None
        if OLD in shown:
            assert shown[OLD] == entry.timestamp
            # It takes the tag for the process.
            assert shown["syslog.procid"] == entry.app_name
        if "syslog.hostname" in shown:
            assert shown["syslog.hostname"] == entry.hostname
    assert SIZES[name] == seen
