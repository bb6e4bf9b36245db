"""
Flows of real exporters, softflowd and nfreplay, on the loopback.
"""

import socket
import subprocess

import pytest

from examples.netflow_exporter import datagrams
from protocols.netflow import ipfix
from protoserve import Role, Session
from protoserve.events import NEED_DATA, MessageReceived
from tests.captures import captures
from tests.interop.netflow_tools import (
    PATIENCE,
    collector,
    send,
)
from tests.protocols.netflow.blocks import Exporters, as_rows, captured

pytestmark = pytest.mark.interop
pytest.importorskip("pyarrow")


@pytest.fixture
def receiver():
    """A UDP socket with room for all that a test sends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        yield sock


def received(sock):
    """Give what waits in a socket's queue."""
    sock.setblocking(False)
    found = []
    while True:
        try:
            found.append(sock.recv(65_536))
        except BlockingIOError:
            return found


def tabulated(datagrams):
    from protocols.netflow.tabulator import NetFlowTabulator

    found = NetFlowTabulator().tables(Exporters().block(datagrams))
    assert [] == list(found.refused)
    assert 0 == found.held
    return found


@pytest.fixture(scope="module")
def traffic():
    """A capture of plain traffic, to make flows of."""
    found = [p for p in captures("dns") if p.stem == "pcapplusplus__DnsPackets"]
    if not found:
        pytest.skip("the captures are not beside the checkout")
    return found[0]


@pytest.mark.parametrize("version", [5, 9, 10])
def test_softflowd(version, receiver, traffic, tmp_path, require_program):
    """What softflowd exports of a capture has each of its packets once."""
    port = receiver.getsockname()[1]
    run = [require_program("softflowd"), "-r", str(traffic), "-v", str(version), "-d"]
    # It waits for ever if the path of its control socket is a long one.
    run += ["-n", f"127.0.0.1:{port}", "-p", "pid", "-c", "control"]
    subprocess.run(run, check=True, capture_output=True, timeout=PATIENCE, cwd=tmp_path)
    rows = as_rows(tabulated(received(receiver)).tables["flows"])
    names = (
        ("dPkts", "prot")
        if version == 5
        else ("packetDeltaCount", "protocolIdentifier")
    )
    packets = [len(segment.source) for segment in captured(traffic)]
    expected = packets.count(4) if version == 5 else len(packets)
    assert expected == sum(row[names[0]] for row in rows)
    assert {17} == {row[names[1]] for row in rows}


def test_softflowd_over_tcp(traffic, tmp_path, require_program):
    """IPFIX over TCP is cut into messages, and has each packet once."""
    run = [require_program("softflowd"), "-r", str(traffic), "-v", "10", "-P", "tcp"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        run += ["-d", "-n", f"127.0.0.1:{server.getsockname()[1]}"]
        run += ["-p", "pid", "-c", "control"]
        with subprocess.Popen(run, cwd=tmp_path, stdout=-3, stderr=-3) as process:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(PATIENCE)
                data = b"".join(iter(lambda: connection.recv(65_536), b""))
            assert 0 == process.wait(PATIENCE)
    session = Session(ipfix, Role.SERVER)
    session.receive_data(data)
    frames = []
    while (event := session.next_event()) is not NEED_DATA:
        assert isinstance(event, MessageReceived), event
        frames.append(event.frame.data)
    rows = as_rows(tabulated(frames).tables["flows"])
    assert 464 == sum(row["packetDeltaCount"] for row in rows)


@pytest.mark.parametrize("version", [5, 9])
def test_nfreplay(version, receiver, tmp_path, require_program):
    """What nfreplay sends is what nfcapd got."""
    with collector(require_program("nfcapd"), tmp_path) as port:
        send(datagrams(5, 500), port)
    (file,) = tmp_path.glob("nfcapd.*")
    port = receiver.getsockname()[1]
    run = [require_program("nfreplay"), "-r", str(file), "-v", str(version)]
    run += ["-H", "127.0.0.1", "-p", str(port)]
    subprocess.run(run, check=True, capture_output=True, timeout=PATIENCE)
    again = as_rows(tabulated(received(receiver)).tables["flows"])
    first = as_rows(tabulated(list(datagrams(5, 500))).tables["flows"])
    five = "srcaddr dstaddr srcport dstport prot dPkts dOctets"
    nine = (
        "sourceIPv4Address destinationIPv4Address sourceTransportPort "
        "destinationTransportPort protocolIdentifier packetDeltaCount octetDeltaCount"
    )

    def seen(rows, names):
        return sorted(tuple(row[name] for name in names.split()) for row in rows)

    assert seen(first, five) == seen(again, five if version == 5 else nine)
