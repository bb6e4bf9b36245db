"""
Flows as nfcapd collects them and nfdump shows them, out of the same datagrams.
"""

import datetime as dt
from collections import Counter

import pytest

from examples.netflow_exporter import NAMES, datagrams
from tests.captures import captures
from tests.interop.netflow_tools import collector, dumped, send
from tests.protocols.netflow.blocks import Exporters, as_rows, captured

pytestmark = pytest.mark.interop
pytest.importorskip("pyarrow")

CAPTURES = [
    path
    for folder in ("netflow5", "netflow9", "ipfix", "recorded-here")
    for path in captures(folder)
    if folder != "recorded-here" or path.stem in ("netflow5-pmacctd", "ipfix-pmacctd")
]


def milliseconds(shown):
    moment = dt.datetime.fromisoformat(shown).replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)


def theirs(flows):
    """Bring nfdump's flows to what both sides know; those of another kind are left."""
    for flow in flows:
        source = flow.get("src4_addr", flow.get("src6_addr"))
        target = flow.get("dst4_addr", flow.get("dst6_addr"))
        ports = flow.get("src_port"), flow.get("dst_port")
        # It takes IPFIX's flowEndSysUpTime for the first of the two (1.7.1).
        times = sorted([milliseconds(flow["first"]), milliseconds(flow["last"])])
        counts = flow["in_packets"], flow["in_bytes"]
        yield source, target, flow["proto"], ports, counts, tuple(times)


def moments(row, started):
    """
    Find a flow's times, which the versions say in different ways.

    The exporter's uptime is a counter of 32 bits that begins anew; so how long ago
    it was is what counts.
    """
    if row.get("flowStartMilliseconds") is not None:
        return row["flowStartMilliseconds"], row["flowEndMilliseconds"]
    first, last = row.get("First"), row.get("Last")
    if first is None:
        first, last = row["flowStartSysUpTime"], row["flowEndSysUpTime"]
    if row["version"] == 10:
        return started + first, started + last
    now = row["unix_secs"] * 1000 + (row.get("unix_nsecs") or 0) // 1_000_000
    ages = [(row["SysUptime"] - each) % (1 << 32) for each in (first, last)]
    return now - ages[0], now - ages[1]


def ours(table, started):
    for row in as_rows(table):
        if row["version"] == 5:
            names = "srcaddr dstaddr prot srcport dstport dPkts dOctets"
        else:
            six = row.get("ipVersion") == 6 or row.get("sourceIPv4Address") is None
            names = (
                "sourceIPv6Address destinationIPv6Address"
                if six
                else ("sourceIPv4Address destinationIPv4Address")
            )
            names += " protocolIdentifier sourceTransportPort destinationTransportPort"
            names += " packetDeltaCount octetDeltaCount"
        source, target, protocol, *rest = (row.get(name) for name in names.split())
        ports = (None, None) if protocol in (1, 58) else tuple(rest[:2])
        yield source, target, protocol, ports, tuple(rest[2:]), moments(row, started)


def compare(datagrams, tmp_path, require_program):
    from protocols.netflow.tabulator import NetFlowTabulator

    with collector(require_program("nfcapd"), tmp_path) as port:
        send(datagrams, port)
    expected = Counter(theirs(dumped(require_program("nfdump"), tmp_path)))
    found, started = Counter(), None
    tabulator, senders = NetFlowTabulator(), Exporters()
    for datagram in datagrams:
        tables = tabulator.tables(senders.block([datagram])).tables
        for row in as_rows(tables["options"]) if "options" in tables else ():
            started = row.get("systemInitTimeMilliseconds") or started
        if "flows" in tables:
            found.update(ours(tables["flows"], started))
    assert expected == found
    return found.total()


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_captures(path, tmp_path, require_program):
    """Both find the same flows in a capture."""
    compare([each.payload for each in captured(path)], tmp_path, require_program)


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tmp_path, require_program):
    """The example sends what nfcapd understands, and both find all of it."""
    sent = list(datagrams(NAMES[name], 1000))
    assert 1000 == compare(sent, tmp_path, require_program)
