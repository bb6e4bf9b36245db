"""
However a stream is cut on its way, it gets the same answers, in every mode.

The answers of one session that has got everything at once, without any server, are the
oracle. Each mode has one server process for each protocol, which all cuts go to.
"""

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.dns_server import app as names
from examples.modbus_station import Station
from protocols.modbus import modbus
from protoserve import Peer, Service, route, unknown
from protoserve.serve import MODES
from protoserve.urls import Address
from tests.certificates import Authority
from tests.service.kit import PATIENCE, Ping, Pong, Text, spoken, until

ROOT = Path(__file__).parents[2]

PEERS = 24
"""Datagram peers that talk at a time."""


class Echo:
    """
    Answers each request, and what it does not know.
    """

    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text) -> Text:
        return message

    @unknown
    def whatever(self) -> Text:
        return Text(b"what?")


app = Service(spoken, Echo())


def said(kind, number, body=b""):
    return struct.pack("!BH", kind, number) + body


def query(number, name, rrtype, opcode=0):
    labels = b"".join(bytes([len(part)]) + part for part in name.split(b"."))
    head = struct.pack("!6H", number, opcode << 11, 1, 0, 0, 0)
    return head + labels + struct.pack("!BHH", 0, rrtype, 1)


def asked(number, function, data, unit=1):
    return struct.pack("!3HBB", number, 0, 2 + len(data), unit, function) + data


@attrs.frozen
class Talk:
    """
    What one client says: requests that are good, unknown and, at last, malformed.
    """

    app: str
    service: Service
    requests: list
    prefixed: bool = True

    @property
    def stream(self):
        lengths = (struct.pack("!H", len(r)) * self.prefixed for r in self.requests)
        return b"".join(a + b for a, b in zip(lengths, self.requests, strict=True))

    def answer(self):
        """
        Give what a session answers to the whole stream.
        """
        session = self.service.session(Peer("tcp", ("127.0.0.1", 1)))
        session.receive_data(self.stream)
        self.service.answer(session)
        return b"".join(session.data_to_send())

    def answers(self):
        """
        Give what a session answers to the requests as datagrams.
        """
        session = self.service.session(Peer("udp", ("127.0.0.1", 1)), stream=False)
        for request in self.requests:
            session.receive_data(request)
            self.service.answer(session)
        return list(session.data_to_send())


TALKS = {
    "spoken": Talk(
        "tests.service.test_splits:app",
        app,
        [
            said(1, 1, b"\3"),
            said(3, 2, b"some text"),
            said(9, 3, b"?"),
            said(1, 4, b"\1"),
            said(3, 5),
            said(1, 6),
        ],
    ),
    "dns": Talk(
        "examples.dns_server:app",
        names,
        [
            query(1, b"www.example.test", 1),
            query(2, b"example.test", 15),
            query(3, b"example.test", 1, opcode=2),
            query(4, b"gone.example.test", 28),
            query(5, b"www.elsewhere.test", 1),
            query(6, b"www.example.test", 1)[:-3],
        ],
    ),
    "modbus": Talk(
        "examples.modbus_station:app",
        # Its own, as the example's keeps what other tests have written.
        Service(modbus, Station(), on_malformed="skip"),
        [
            asked(1, 16, struct.pack("!HHBHH", 7, 2, 4, 0xABCD, 2)),
            asked(2, 3, struct.pack("!HH", 6, 4)),
            asked(3, 0x41, b"??"),
            asked(4, 3, struct.pack("!HH", 999, 9)),
            asked(5, 1, struct.pack("!HH", 0, 9), unit=9),
            asked(6, 3, struct.pack("!HH", 0, 0)),
        ],
        prefixed=False,
    ),
}


def appended(file):
    """
    Have all that is written to a file stand at its end.

    A process that it is given to shares its position, which reading moves; and the mode of
    a temporary file does not reach the kernel.
    """
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


@contextlib.contextmanager
def serving(talk, mode, *urls, options=()):
    """
    Serve an app in a process of its own; give the addresses.
    """
    command = [sys.executable, "-m", "protoserve", "run", talk.app, "--mode", mode]
    for url in urls:
        command += ["--listen", url]
    if mode == "prefork":
        command += ["--workers", "2"]
    # Not to a pipe: what is malformed is logged, and nobody would read it meanwhile.
    with (
        tempfile.TemporaryFile("a+") as log,
        subprocess.Popen(
            [*command, *options], cwd=ROOT, stderr=appended(log)
        ) as process,
    ):

        def text():
            log.seek(0)
            return log.read()

        def bound():
            assert process.poll() is None, text()
            lines = [line.partition("listening on ") for line in text().splitlines()]
            return [Address.parse(url) for head, on, url in lines if on and not head]

        try:
            until(lambda: len(bound()) == len(urls))
            yield bound()
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(PATIENCE), text()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    made = Authority(tmp_path_factory.mktemp("splits"))
    made.pair = made.issue("localhost")
    return made


def connect(address, authority):
    if address.port is None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(address.host)
        return sock
    where = (address.host, address.port)
    if address.transport == "tls":
        sock = authority.connect(where)
    else:
        sock = socket.create_connection(where, PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def replies(sock, pieces, count):
    """
    Send the pieces, each by itself; give the answers, and what comes after them.
    """
    with sock:
        for piece in pieces:
            sock.sendall(piece)
        got = b""
        while len(got) < count and (data := sock.recv(65_536)):
            got += data
        if sock.family == socket.AF_UNIX or not hasattr(sock, "unwrap"):
            with contextlib.suppress(OSError):  # it has been closed already
                sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65_536):
                got += data
        return got


def cut(data, places):
    """
    Cut bytes at some places.
    """
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def bytewise(data):
    return cut(data, range(1, len(data)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TALKS)
def test_streams(name, mode, tmp_path_factory, authority):
    """Whole, in two anywhere, byte by byte or in any pieces, the answers are equal."""
    talk = TALKS[name]
    data, expected = talk.stream, talk.answer()
    assert expected
    path = tmp_path_factory.mktemp("u") / "s"
    urls = ("tcp://127.0.0.1:0", f"unix://{path}", "tls://127.0.0.1:0")
    cert, key = map(str, authority.pair)
    options = ("--tls-cert", cert, "--tls-key", key)
    with serving(talk, mode, *urls, options=options) as (tcp, unix, tls):

        def check(address, pieces):
            sock = connect(address, authority)
            assert expected == replies(sock, pieces, len(expected)), pieces

        for address in (tcp, unix):
            check(address, [data])
            check(address, bytewise(data))
        # A process for each connection takes the machine its time.
        step = 4 if mode == "fork" else 1
        for place in range(1, len(data), step):
            check(unix if place // step % 2 else tcp, cut(data, [place]))
        for pieces in ([data], bytewise(data), cut(data, [len(data) // 2])):
            check(tls, pieces)

        @settings(max_examples=20)
        @given(st.sets(st.integers(1, len(data) - 1)))
        def in_pieces(places):
            check(tcp, cut(data, places))
            check(unix, cut(data, places))

        in_pieces()


@pytest.mark.parametrize("mode", ["loop", "batch", "threads"])
@pytest.mark.parametrize("name", ["spoken", "dns"])
def test_datagrams(name, mode):
    """Peers that talk at the same time get each their own answers, in order."""
    talk = TALKS[name]
    expected = talk.answers()
    assert len(expected) >= len(talk.requests) - 1
    with (
        serving(talk, mode, "udp://127.0.0.1:0") as (address,),
        contextlib.ExitStack() as stack,
    ):
        socks = []
        for _ in range(PEERS):
            sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.settimeout(PATIENCE)
            sock.connect((address.host, address.port))
            socks.append(sock)
        for request in talk.requests:
            for sock in socks:
                sock.send(request)
        for sock in socks:
            assert expected == [sock.recv(65_536) for _ in expected]
