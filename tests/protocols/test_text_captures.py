"""
What the decoding command shows of captured metrics and log entries.
"""

import json

import pytest

from tests.captures import captures
from tests.cli.commanding import command

__all__ = ["command"]

pytest.importorskip("dpkt", reason="captures are read with dpkt")


@pytest.fixture
def decoded(command):
    """Give a function that has a capture's messages decoded, as their fields."""

    def decode(folder, name, protocol, *options):
        paths = [path for path in captures(folder) if path.name == name]
        if not paths:
            pytest.skip(f"the capture {name} is not there")
        code, shown, said = command("decode", protocol, paths[0], "--json", *options)
        assert (0, "") == (code, said)
        return [json.loads(line)["fields"] for line in shown.splitlines()]

    return decode


def test_statsd(decoded):
    """What a client's datagrams say, line by line."""
    options = ("--port", "18128")
    found = [
        (
            line["name"],
            line["type"],
            line["values"],
            line["member"],
            line["sample_rate"],
        )
        for fields in decoded(
            "recorded-here", "statsd.pcap", "protocols.statsd:statsd", *options
        )
        for line in fields["lines"]
    ]
    assert [
        ("py.a", "c", [1.0], None, 1.0),
        ("py.t", "ms", [320.0], None, 1.0),
        ("py.g", "g", [-3.0], None, 1.0),
        ("py.s", "s", [], "u1", 1.0),
        ("py.r", "c", [1.0], None, 0.99),
        ("py.p1", "c", [1.0], None, 1.0),
        ("py.p2", "g", [4.5], None, 1.0),
    ] == found


def test_syslog_over_tcp(decoded):
    """A connection on which both framings of RFC 6587 are mixed."""
    found = [
        fields["entry"]
        for fields in decoded(
            "syslog", "zeek__tcp-syslog.pcap", "protocols.syslog:syslog"
        )
    ]
    assert [
        ("USER", "NOTICE", "'su root' failed "),
        ("USER", "INFO", "'su root' failed"),
        ("USER", "DEBUG", "'su bob' failed "),
        ("MAIL", "EMERG", "'su bob' failed"),
    ] == [(entry["facility"], entry["severity"], entry["message"]) for entry in found]
    assert {("mymachine", "su")} == {(e["hostname"], e["app_name"]) for e in found}


@pytest.mark.parametrize(
    ("protocol", "good", "bad"),
    [
        ("protocols.statsd:statsd", b"a:1|c", b"a:1|x"),
        ("protocols.graphite:graphite", b"a 1 2", b"a 1"),
        ("protocols.graphite:graphite_pickle", b"(lp0\n.", b"cos\nsystem\n."),
        ("protocols.influx:influx", b"m f=1", b"m f"),
        ("protocols.syslog:syslog", b"<34>text", b"<34>1 - x"),
    ],
)
def test_messages_as_hex(command, protocol, good, bad):
    """Each protocol's messages are decoded, and bad ones told with the place."""
    code, shown, said = command("decode", protocol, good.hex(), bad.hex())
    assert (1, "") == (code, said)
    first, second, *_ = shown.splitlines()
    assert " at offset " not in first
    assert " at offset " in second
