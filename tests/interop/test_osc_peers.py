"""
OSC with python-osc and liblo's programs at the other end, and as tshark reads it.
"""

import math
import queue
import subprocess
import threading

import attrs
import pytest

from protocols import osc as o
from protoserve import Direction, Service, Session, route
from protoserve.client import Client
from protoserve.testing import live
from tests.captures import captures
from tests.interop.conftest import STOP, free_port
from tests.packets import RAW, pcap, udp

pytestmark = pytest.mark.interop

PATIENCE = 60.0


@attrs.define
class Listener:
    """
    Keeps what comes.
    """

    came: queue.Queue = attrs.field(factory=queue.Queue)

    @route
    def message(self, message: o.OscMessage, session: Session) -> None:
        self.came.put(message)

    @route
    def bundle(self, bundle: o.Bundle, session: Session) -> None:
        self.came.put(bundle)


@pytest.fixture(scope="module")
def pythonosc(require_module):
    require_module("pythonosc")
    return require_module


def their_message(pythonosc, address, typed):
    builder = pythonosc("pythonosc.osc_message_builder").OscMessageBuilder(address)
    for tag, value in typed:
        builder.add_arg(value, tag)
    return builder.build()


TYPED = [
    ("i", -5),
    ("h", 1 << 40),
    ("f", 0.5),
    ("d", 0.1),
    ("s", "text é"),
    ("b", b"\x01\x02\x03"),
    ("r", 0x11223344),
    ("T", True),
    ("F", False),
    ("N", None),
]
OURS = o.OscMessage(
    "/all/types",
    [*(value for _, value in TYPED), [7, "in"]],
    types="ihfdsbrTFN[is]",
)


def test_bytes(pythonosc):
    """
    python-osc builds and reads the bytes that we do, for each type that it knows.
    """
    builder = pythonosc("pythonosc.osc_message_builder").OscMessageBuilder("/all/types")
    for tag, value in TYPED:
        builder.add_arg(value, tag)
    builder.add_arg([7, "in"])
    theirs = builder.build()
    assert theirs.dgram == bytes(OURS)
    read = pythonosc("pythonosc.osc_message").OscMessage(bytes(OURS))
    assert OURS.address == read.address
    assert OURS.args == read.params
    assert OURS == o.OscMessage.parse(theirs.dgram)


def test_bundles(pythonosc):
    """
    python-osc's bundles, one inside of the other, come to the same messages.
    """
    builders = pythonosc("pythonosc.osc_bundle_builder")
    inner = builders.OscBundleBuilder(1_700_000_000.5)
    inner.add_content(their_message(pythonosc, "/in", [("i", 2)]))
    outer = builders.OscBundleBuilder(builders.IMMEDIATELY)
    outer.add_content(their_message(pythonosc, "/out", [("f", 1.5)]))
    outer.add_content(inner.build())
    theirs = outer.build().dgram
    bundle = o.osc.parse(theirs, Direction.REQUEST).message
    assert theirs == bytes(bundle)
    rows = list(bundle.rows())
    assert [("/out", 1.5), ("/in", 2.0)] == [(row.address, row.value) for row in rows]
    assert rows[0].time is None
    assert abs(rows[1].time.timestamp() - 1_700_000_000.5) < 1e-5


def sender(pythonosc, transport, mode, url):
    host, port = url.rsplit("/", 1)[1].split(":")
    if transport == "udp":
        return pythonosc("pythonosc.udp_client").UDPClient(host, int(port))
    return pythonosc("pythonosc.tcp_client").TCPClient(host, int(port), mode=mode)


WAYS = [("udp", "1.1", o.osc), ("tcp", "1.1", o.osc), ("tcp", "1.0", o.osc_1_0)]
ways = pytest.mark.parametrize(("transport", "mode", "protocol"), WAYS)


@ways
def test_python_osc_sends(pythonosc, transport, mode, protocol):
    """
    A route gets what python-osc sends, over UDP and over both forms of TCP.
    """
    handler = Listener()
    with live(Service(protocol, handler), transport=transport) as server:
        client = sender(pythonosc, transport, mode, server.url)
        client.send(their_message(pythonosc, "/a", [("i", 0xC0), ("b", b"\xdb\xc0")]))
        client.send(their_message(pythonosc, "/b", [("s", "last")]))
        first = handler.came.get(timeout=PATIENCE)
        assert o.OscMessage("/a", [0xC0, b"\xdb\xc0"]) == first
        second = handler.came.get(timeout=PATIENCE)
        assert o.OscMessage("/b", ["last"]) == second
        closed = client._sock if transport == "udp" else client
        closed.close()


@ways
def test_python_osc_receives(pythonosc, transport, mode, protocol):
    """
    python-osc's server gets what our client sends.
    """
    came = queue.Queue()
    dispatcher = pythonosc("pythonosc.dispatcher").Dispatcher()
    dispatcher.set_default_handler(lambda address, *args: came.put((address, args)))
    if transport == "udp":
        servers = pythonosc("pythonosc.osc_server")
        server = servers.BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher)
    else:
        servers = pythonosc("pythonosc.osc_tcp_server")
        server = servers.BlockingOSCTCPServer(("127.0.0.1", 0), dispatcher, mode)
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"{transport}://127.0.0.1:{server.server_address[1]}"
            with Client(protocol, url) as client:
                client.send(o.OscMessage("/a", [1, "x", b"\xdb\xc0"]))
                inner = o.Bundle(elements=[o.OscMessage("/c", [True])])
                client.send(o.Bundle(elements=[o.OscMessage("/b", [2]), inner]))
                found = [came.get(timeout=PATIENCE) for _ in range(3)]
        finally:
            server.shutdown()
            thread.join(PATIENCE)
    wanted = [("/a", (1, "x", b"\xdb\xc0")), ("/b", (2,)), ("/c", (True,))]
    assert sorted(wanted) == sorted(found)


def test_liblo_sends(require_program):
    """
    A route gets what liblo's oscsend sends, with the types that others do not know.
    """
    program = require_program("oscsend")
    handler = Listener()
    with live(Service(o.osc, handler), transport="udp") as server:
        port = server.url.rsplit(":", 1)[1]
        types = "ihfdsScmTFNI"
        values = ["1", "2", "0.5", "0.25", "text", "symbol", "x", "01903c7f"]
        command = [program, f"osc.udp://127.0.0.1:{port}/", "/liblo", types, *values]
        subprocess.run(command, check=True, timeout=PATIENCE)
        message = handler.came.get(timeout=PATIENCE)
    assert ("/liblo", types) == (message.address, message.types)
    expected = [1, 2, 0.5, 0.25, "text", "symbol", "x", bytes.fromhex("01903c7f")]
    assert [*expected, True, False, None, math.inf] == message.args


def test_liblo_receives(require_program):
    """
    liblo's oscdump shows what our client sends.
    """
    program, port = require_program("oscdump"), free_port()
    command = [program, "-L", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = queue.Queue()
        reader = threading.Thread(target=lambda: [*map(lines.put, process.stdout)])
        reader.start()
        try:
            with Client(o.osc, f"udp://127.0.0.1:{port}") as client:
                line = shown(client, lines)
        finally:
            process.terminate()
            process.wait(STOP)
            reader.join(STOP)
    assert line.split(maxsplit=1)[1].strip() == "/a isTc 7 \"text\" #T 'x'"


def shown(client, lines):
    """
    Send until the program listens, and give the line that it shows.
    """
    for _ in range(int(PATIENCE / 0.2)):
        client.send(o.OscMessage("/a", [7, "text", True, "x"], types="isTc"))
        try:
            return lines.get(timeout=0.2)
        except queue.Empty:
            continue
    return pytest.fail("oscdump shows nothing")


FIELDS = {
    "i": "osc.message.int32",
    "h": "osc.message.int64",
    "f": "osc.message.float",
    "d": "osc.message.double",
    "s": "osc.message.string",
    "S": "osc.message.symbol",
    "c": "osc.message.char",
    "r": "osc.message.rgba",
}
NAMES = ["osc.message.header.path", "osc.message.header.format", *FIELDS.values()]


def in_tshark(program, path):
    """
    Give what tshark shows of each datagram, by the names of its fields.
    """
    command = [program, "-n", "-r", str(path), "--enable-heuristic", "osc_udp"]
    command += ["-T", "fields", "-E", "separator=\t", "-E", "aggregator=\x1f"]
    for name in ("udp.payload", *NAMES):
        command += ["-e", name]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=True
    )
    for line in done.stdout.splitlines():
        payload, *values = line.split("\t")
        split = [value.split("\x1f") if value else [] for value in values]
        yield bytes.fromhex(payload), dict(zip(NAMES, split, strict=True))


def test_tshark(require_program, tmp_path):
    """
    tshark shows the addresses, type tags and arguments that we read.
    """
    whole = o.OscMessage(
        "/all", [1, 1 << 40, 0.5, 0.25, "s", "S", "c", 0x11223344], types="ihfdsScr"
    )
    path = tmp_path / "osc.pcap"
    packet = udp(("192.0.2.1", 40000), ("192.0.2.2", 9000), bytes(whole))
    path.write_bytes(pcap([packet], RAW))
    recorded = [p for p in captures("recorded-here") if p.name == "osc.pcap"]
    program = require_program("tshark")
    for file in [path, *recorded]:
        for data, found in in_tshark(program, file):
            message = o.osc.parse(data, Direction.REQUEST).message
            if isinstance(message, o.Bundle):
                ((_, message),) = message.messages()
            assert [message.address] == found["osc.message.header.path"]
            assert [f",{message.types}"] == found["osc.message.header.format"]
            for tag, value in zip(message.types, message.args, strict=True):
                if tag in FIELDS:
                    (shown_value,) = found[FIELDS[tag]]
                    kind = float if tag in "fd" else type(value)
                    as_number = tag == "r" and int(shown_value, 0)
                    assert value == (as_number or kind(shown_value))
